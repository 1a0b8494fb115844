//! The figures of a run: gathered, printed, kept as JSON.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::cells::{Cell, Outcome};
use crate::systems::{Contestant, Kind};

/// A run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    /// Cores and their model.
    pub machine: String,
    /// Kernel release.
    pub kernel: String,
    /// Load average when it began.
    pub load: String,
    /// How often every cell was measured.
    pub rounds: usize,
    /// Seconds for which a cell sent.
    pub seconds: f64,
    /// Who was measured, the first against each other one.
    pub systems: Vec<Described>,
    /// What was measured.
    pub rows: Vec<Row>,
    /// Cores that forwarding processes kept busy: cell, then by system and round.
    pub cpu: Vec<(String, Values)>,
    /// What failed, and why.
    pub failures: Vec<String>,
}

/// By system, then by round; `None` where there is none.
pub type Values = Vec<Vec<Option<f64>>>;

/// A system.
#[derive(Debug, Serialize, Deserialize)]
pub struct Described {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub what: String,
}

/// One figure.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// More is better.
    pub more: bool,
    /// The values.
    pub values: Values,
}

impl Run {
    /// Nothing measured yet.
    pub fn new(systems: &[Contestant], rounds: usize, seconds: f64) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
        let model = model.map_or("unknown", |(_, name)| name);
        let describe = |c: &Contestant| Described { name: c.name.clone(), what: describe(c) };
        Self {
            machine: format!("{cpus} cores ({model})"),
            // Without what whoever built it has added.
            kernel: read("/proc/sys/kernel/osrelease")
                .trim()
                .split('-')
                .next()
                .unwrap_or_default()
                .to_owned(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            rounds,
            seconds,
            systems: systems.iter().map(describe).collect(),
            rows: Vec::new(),
            cpu: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Says under which conditions the figures come about.
    pub fn print_conditions(&self) {
        let Self { machine, kernel, load, rounds, seconds, systems, .. } = self;
        println!("{machine}, Linux {kernel}, load {load}");
        println!(
            "{rounds} rounds, {seconds} s a cell, systems in turns; veth pairs, MTU 1500, the \
             page's gateway rules"
        );
        for Described { name, what } in systems {
            println!("  {name}: {what}");
        }
        println!();
    }

    /// Adds what one cell gave on one system in one round.
    pub fn add(&mut self, cell: Cell, system: usize, outcome: Option<Outcome>) {
        let (count, name) = (self.systems.len(), cell.name());
        let (values, cpu) = match outcome {
            None => (Vec::new(), None),
            Some(Ok(measured)) => (measured.values, measured.cpu),
            Some(Err(why)) => {
                let who = &self.systems[system].name;
                self.failures.push(format!("{name} on {who}: {why}"));
                (Vec::new(), None)
            }
        };
        for (n, figure) in cell.figures().into_iter().enumerate() {
            let row = match self.rows.iter_mut().find(|row| row.name == figure.name) {
                Some(row) => row,
                None => {
                    let values = vec![Vec::new(); count];
                    let unit = figure.unit.to_owned();
                    self.rows.push(Row { name: figure.name, unit, more: figure.more, values });
                    self.rows.last_mut().expect("just pushed")
                }
            };
            row.values[system].push(values.get(n).copied());
        }
        match self.cpu.iter_mut().find(|(cell, _)| *cell == name) {
            Some((_, values)) => values[system].push(cpu),
            None => {
                let mut values = vec![Vec::new(); count];
                values[system].push(cpu);
                self.cpu.push((name, values));
            }
        }
    }

    /// Prints everything.
    pub fn print(&self) {
        print!("{:<46}", "median (min–max)");
        for Described { name, .. } in &self.systems {
            print!("{name:>22}");
        }
        for Described { name, .. } in self.systems.iter().skip(1) {
            print!("{:>22}", format!("ours/{name}"));
        }
        println!();
        for row in &self.rows {
            print!("{:<46}", format!("{}, {}", row.name, row.unit));
            for values in &row.values {
                print!("{:>22}", spread(values));
            }
            for other in 1..self.systems.len() {
                print!("{:>22}", spread(&row.ratios(other)));
            }
            println!("{}", if row.more { "" } else { "  (less is better)" });
        }
        println!("\n\"ours\" is {}. Ratios are of the same round.", self.systems[0].name);
        println!("\nCores that the forwarding process kept busy:");
        for (cell, values) in &self.cpu {
            for (system, values) in self.systems.iter().zip(values) {
                if values.iter().any(Option::is_some) {
                    println!("  {:<14}{cell:<46}{:>20}", system.name, spread(values));
                }
            }
        }
        self.failures.iter().for_each(|failure| println!("failed: {failure}"));
    }
}

impl Row {
    /// The first system's values by another's, round by round.
    pub fn ratios(&self, other: usize) -> Vec<Option<f64>> {
        let pairs = self.values[0].iter().zip(&self.values[other]);
        pairs.map(|(a, b)| a.zip(*b).map(|(a, b)| a / b)).collect()
    }
}

fn describe(contestant: &Contestant) -> String {
    let system = &contestant.page;
    let pid = system.pid().map_or(String::new(), |pid| format!(", pid {pid}"));
    match &system.kind {
        Kind::Tidegate { program, workers } => {
            let workers = workers.map_or("default".into(), |n| n.to_string());
            format!("{}, {workers} workers{pid}", program.display())
        }
        Kind::Kernel => "iptables-legacy, conntrack, MASQUERADE".into(),
        Kind::Plumb { program } => {
            format!("{}: no rules, no NAT, one thread{pid}", program.display())
        }
        Kind::Redirect => "tc mirred redirect: no rules, no NAT".into(),
    }
}

/// Median and, in brackets, the least and the greatest.
pub fn spread(values: &[Option<f64>]) -> String {
    let Some((min, middle, max)) = summary(values) else { return "–".into() };
    let digits = digits(middle);
    format!("{middle:.digits$} ({min:.digits$}–{max:.digits$})")
}

/// The median alone.
pub fn median(values: &[Option<f64>]) -> String {
    let Some((_, middle, _)) = summary(values) else { return "–".into() };
    format!("{middle:.*}", digits(middle))
}

fn digits(value: f64) -> usize {
    match value {
        ..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    }
}

fn summary(values: &[Option<f64>]) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = values.iter().copied().flatten().collect();
    values.sort_by(f64::total_cmp);
    let (min, max, n) = (*values.first()?, *values.last()?, values.len());
    Some((min, (values[(n - 1) / 2] + values[n / 2]) / 2.0, max))
}
