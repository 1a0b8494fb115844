//! What it costs to make a ruleset of a text, and to print it again.

mod common;

use common::many_rules;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate_filter::{SaveStyle, Source, live, load};
use tidegate_packet::Family;

fn loading(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    group.sample_size(20);
    for count in [1_000, 10_000, 100_000] {
        let text = many_rules(count);
        let source = Source { name: "bench", text: &text };
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("read", count), &source, |b, source| {
            b.iter_batched(
                || *source,
                |source| load(source, Family::V4).expect("right rules"),
                BatchSize::PerIteration,
            );
        });
        let ruleset = load(source, Family::V4).expect("right rules").ruleset;
        let style = SaveStyle { stamp: "now", rule_counters: true };
        group.bench_with_input(BenchmarkId::new("print", count), &ruleset, |b, ruleset| {
            b.iter(|| ruleset.save(None, style));
        });
    }
    group.finish();
}

/// One rule more, in front or at the end of a chain of many.
fn changing(c: &mut Criterion) {
    let mut group = c.benchmark_group("change");
    for count in [1_000, 10_000, 100_000] {
        let text = many_rules(count);
        let ruleset = load(Source { name: "bench", text: &text }, Family::V4).expect("right rules");
        let (ruleset, counters) = (&ruleset.ruleset, &ruleset.ruleset.zero_counters());
        for (name, command) in [("append", "-A"), ("insert", "-I")] {
            let line = format!("{command} FORWARD -s 192.0.2.1 -p tcp --dport 80 -j ACCEPT");
            let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let (program, family) = (live::Program::Iptables, Family::V4);
            let call = live::Call { program, family, args: &args, input: "", stamp: "" };
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| live::run(call, live::Present { ruleset, counters }));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, loading, changing);
criterion_main!(benches);
