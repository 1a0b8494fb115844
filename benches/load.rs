//! What it costs to make a ruleset of a text, and to print it again.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::fmt::Write as _;
use tidegate_filter::{SaveStyle, Source, live, load};
use tidegate_packet::Family;

/// So many rules such as people have: three quarters in filter, with chains, the rest in nat.
fn rules(count: usize) -> String {
    let mut text = String::from("*filter\n");
    for chain in 0..16 {
        let _ = writeln!(text, ":chain{chain} - [0:0]");
    }
    let filter = count * 3 / 4;
    for i in 0..filter {
        let addr = format!("10.{}.{}.{}", i >> 16 & 255, i >> 8 & 255, i & 255);
        let (chain, port) = (i % 16, i % 65535 + 1);
        let _ = match i % 4 {
            0 => writeln!(
                text,
                "-A FORWARD -s {addr}/32 -i lan0 -p tcp -m tcp --dport {port} -j ACCEPT"
            ),
            1 => {
                writeln!(text, "-A FORWARD -d {addr}/32 -m conntrack --ctstate NEW -j chain{chain}")
            }
            2 => writeln!(
                text,
                "-A chain{chain} -s {addr}/32 -p udp -m multiport --dports 53,{port} -j DROP"
            ),
            _ => writeln!(
                text,
                "-A chain{chain} -d {addr}/32 -m comment --comment \"rule {i}\" -j RETURN"
            ),
        };
    }
    text.push_str("COMMIT\n*nat\n");
    for i in filter..count {
        let _ = writeln!(
            text,
            "-A PREROUTING -d 203.0.113.1/32 -p tcp -m tcp --dport {} -j DNAT --to-destination 10.0.{}.{}:80",
            i % 65535 + 1,
            i >> 8 & 255,
            i & 255
        );
    }
    text.push_str("COMMIT\n");
    text
}

fn loading(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    group.sample_size(20);
    for count in [1_000, 10_000, 100_000] {
        let text = rules(count);
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
        let text = rules(count);
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
