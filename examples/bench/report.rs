//! The table: medians, spread, ratios.

use std::fs;

use crate::cells::{Cell, Figure};
use crate::systems::{Kind, System};
use crate::{Outcome, compared};

/// Says under which conditions the figures come about.
pub fn conditions(systems: &[System], rounds: usize, seconds: f64) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    println!(
        "{cpus} cores ({}), Linux {}, load {}",
        model.map_or("unknown", |(_, name)| name),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    );
    println!(
        "{rounds} rounds, {seconds} s a cell, systems in turns; veth pairs, MTU 1500, the page's gateway rules"
    );
    for system in systems {
        let what = match &system.kind {
            Kind::Tidegate { program, workers } => {
                let workers = workers.map_or("default".into(), |n| n.to_string());
                format!("{}, {workers} workers", program.display())
            }
            Kind::Kernel => "iptables-legacy, conntrack, MASQUERADE".into(),
            Kind::Plumb { program } => {
                format!("{}: no rules, no NAT, one thread", program.display())
            }
        };
        let pid = system.pid().map_or(String::new(), |pid| format!(", pid {pid}"));
        println!("  {}: {what}{pid}", system.name);
    }
    println!();
}

/// All figures of a run.
pub struct Figures<'a> {
    cells: &'a [Cell],
    systems: &'a [System],
    /// By cell, system, round.
    outcomes: Vec<Vec<Vec<Outcome>>>,
}

impl<'a> Figures<'a> {
    /// None yet.
    pub fn new(cells: &'a [Cell], systems: &'a [System]) -> Self {
        let outcomes = cells.iter().map(|_| systems.iter().map(|_| Vec::new()).collect()).collect();
        Self { cells, systems, outcomes }
    }

    /// Adds what one cell gave on one system.
    pub fn add(&mut self, cell: usize, system: usize, outcome: Outcome) {
        self.outcomes[cell][system].push(outcome);
    }

    /// Prints everything.
    pub fn print(&self) {
        let pairs = compared(self.systems);
        print!("{:<32}", "median (min–max)");
        for system in self.systems {
            print!("{:>24}", system.name);
        }
        for (a, b) in &pairs {
            print!("{:>24}", format!("{}/{}", self.systems[*a].name, self.systems[*b].name));
        }
        println!();
        for (c, cell) in self.cells.iter().enumerate() {
            for (f, figure) in cell.figures().iter().enumerate() {
                self.line(c, f, figure, &pairs);
            }
        }
        println!("\nRatios are of the same round. For times less is better, for all else more.");
        self.print_cpu();
        self.print_failures();
    }

    fn line(&self, c: usize, f: usize, figure: &Figure, pairs: &[(usize, usize)]) {
        print!("{:<32}", format!("{}, {}", figure.name, figure.unit));
        for s in 0..self.systems.len() {
            let values: Vec<_> = self.values(c, s, f).into_iter().flatten().collect();
            print!("{:>24}", spread(values, 2));
        }
        for (a, b) in pairs {
            let ratios = self.values(c, *a, f).into_iter().zip(self.values(c, *b, f));
            let ratios: Vec<_> = ratios.filter_map(|(a, b)| Some(a? / b?)).collect();
            print!("{:>24}", spread(ratios, 2));
        }
        println!("{}", if figure.more { "" } else { "  (less is better)" });
    }

    fn values(&self, c: usize, s: usize, f: usize) -> Vec<Option<f64>> {
        let of = |o: &Outcome| o.as_ref().ok().and_then(|m| m.values.get(f).copied());
        self.outcomes[c][s].iter().map(of).collect()
    }

    fn print_cpu(&self) {
        let mut said = false;
        for (s, system) in self.systems.iter().enumerate().filter(|(_, s)| s.pid().is_some()) {
            for (c, cell) in self.cells.iter().enumerate() {
                let of = |o: &Outcome| o.as_ref().ok().and_then(|m| m.cpu);
                let cpu: Vec<_> = self.outcomes[c][s].iter().filter_map(of).collect();
                if !said {
                    println!("\nCores that the forwarding process kept busy:");
                    said = true;
                }
                println!("  {:<12}{:<32}{:>20}", system.name, cell.name(), spread(cpu, 2));
            }
        }
    }

    fn print_failures(&self) {
        for (c, cell) in self.cells.iter().enumerate() {
            for (s, system) in self.systems.iter().enumerate() {
                for (round, outcome) in self.outcomes[c][s].iter().enumerate() {
                    if let Err(why) = outcome {
                        println!(
                            "failed: {} on {}, round {}: {why}",
                            cell.name(),
                            system.name,
                            round + 1
                        );
                    }
                }
            }
        }
    }
}

/// Median and, in brackets, the least and the greatest.
fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (Some(min), Some(max)) = (values.first(), values.last()) else { return "–".into() };
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    };
    format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
}
