//! Measures Tidegate beside the kernel's iptables and beside the bare copying of frames.
//!
//! Each system under test stands in three namespaces of its own (client, gateway, server, joined
//! by veth pairs) for the whole run, with the same rules where it has rules. The cells are short
//! and interleaved: every round measures every cell on every system, in turns, so that whatever
//! else the machine does hits all of them. What counts is the ratio inside a round.
//!
//! `scripts/bench` builds everything and calls this.

mod cells;
mod readme;
mod report;
mod systems;

use cells::Cell;
use clap::Parser;
use report::Run;
use std::path::{Path, PathBuf};
use std::time::Duration;
use systems::{Contestant, Kind};
use tidegate::lab::error::{LabError, Result};
use tidegate::lab::privilege;

/// Measures Tidegate beside the kernel's iptables with the same rules in the same topology, beside
/// the bare copying of frames between the same devices, and beside tc's redirect.
#[derive(Parser)]
#[command(name = "scripts/bench")]
struct Arguments {
    /// Rounds; in each, every cell is measured on every system.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds for which each cell sends.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Two rounds of half a second: shows that it works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// Only cells whose name contains this; may be repeated.
    #[arg(long)]
    only: Vec<String>,
    /// Leave a system out: tidegate, kernel, plumb, redirect; may be repeated.
    #[arg(long)]
    without: Vec<String>,
    /// Workers of Tidegate; otherwise its own default.
    #[arg(long)]
    workers: Option<usize>,
    /// Measure another build of Tidegate as well: the path of its binary, or PATH@N for N workers;
    /// may be repeated.
    #[arg(long, value_name = "PATH[@N]")]
    also: Vec<String>,
    /// Build one system, show how to reach it, and leave it standing for so many seconds.
    #[arg(long, value_name = "SECONDS")]
    stand: Option<u64>,
    /// Show every single figure too.
    #[arg(long)]
    verbose: bool,
    /// Keep all figures in this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure nothing: take the figures that an earlier run has kept.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    from: Option<PathBuf>,
    /// Write the table of README.md anew.
    #[arg(long)]
    readme: bool,
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let run = match &arguments.from {
        Some(path) => serde_json::from_str(&read(path)?)
            .map_err(|e| LabError::Invalid(format!("{}: {e}", path.display())))?,
        None => match measure(arguments)? {
            Some(run) => run,
            None => return Ok(()),
        },
    };
    run.print();
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&run)
            .map_err(|e| LabError::Invalid(format!("figures that JSON can't hold: {e}")))?;
        write(path, &(text + "\n"))?;
    }
    if arguments.readme {
        let path = Path::new("README.md");
        let text = readme::with_table(&read(path)?, &run)
            .ok_or_else(|| LabError::Invalid("README.md has no marks for the table".into()))?;
        write(path, &text)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    let doing = |source| LabError::System { what: path.display().to_string(), source };
    std::fs::read_to_string(path).map_err(doing)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let doing = |source| LabError::System { what: path.display().to_string(), source };
    std::fs::write(path, text).map_err(doing)
}

/// Measures everything; `None` if a system was only to stand.
fn measure(arguments: &Arguments) -> Result<Option<Run>> {
    privilege::acquire()?;
    let (rounds, seconds) =
        if arguments.quick { (2, 0.5) } else { (arguments.rounds.max(1), arguments.seconds) };
    let time = Duration::from_secs_f64(seconds);
    let chosen = |cell: &Cell| {
        let only = &arguments.only;
        only.is_empty() || only.iter().any(|o| cell.name().contains(o.as_str()))
    };
    let cells: Vec<Cell> = Cell::ALL.into_iter().filter(chosen).collect();
    let systems = build(arguments, cells.iter().any(|cell| cell.has_many_rules()))?;
    let mut run = Run::new(&systems, rounds, seconds);
    run.print_conditions();
    if let Some(seconds) = arguments.stand {
        std::thread::sleep(Duration::from_secs(seconds));
        return Ok(None);
    }
    for round in 0..rounds {
        for cell in &cells {
            for turn in 0..systems.len() {
                // There and back, so that nobody always comes after the same neighbour.
                let s = if round % 2 == 0 { turn } else { systems.len() - 1 - turn };
                let (cell_name, name) = (cell.name(), &systems[s].name);
                eprint!("\r\x1b[Kround {}/{rounds}: {cell_name}, {name}", round + 1);
                let measured = cell.measure(&systems[s], time);
                if arguments.verbose {
                    eprintln!("\r\x1b[K{name} {cell_name}: {measured:?}");
                }
                run.add(*cell, s, measured);
            }
        }
    }
    eprint!("\r\x1b[K");
    Ok(Some(run))
}

fn build(arguments: &Arguments, many: bool) -> Result<Vec<Contestant>> {
    let without = |name: &str| arguments.without.iter().any(|w| w == name);
    let mut systems = Vec::new();
    let mut add = |name: &str, kind: Kind| -> Result<()> {
        systems.push(Contestant::build(name, &kind, many)?);
        Ok(())
    };
    if !without("tidegate") {
        let program = systems::beside_us("tidegate")?;
        add("tidegate", Kind::Tidegate { program, workers: arguments.workers })?;
    }
    for (n, program) in arguments.also.iter().enumerate() {
        let (path, workers) = match program.rsplit_once('@') {
            Some((path, n)) => match n.parse() {
                Ok(n) => (path, Some(n)),
                Err(_) => return Err(LabError::Invalid(format!("{program}: {n} is no number"))),
            },
            None => (program.as_str(), arguments.workers),
        };
        add(&format!("also {}", n + 1), Kind::Tidegate { program: path.into(), workers })?;
    }
    if !without("kernel") {
        if systems::has_iptables() {
            add("kernel", Kind::Kernel)?;
        } else {
            eprintln!(
                "bench: there is no iptables-legacy-restore here (Debian: apt install iptables), \
                 so the kernel is not measured and nothing is compared with it"
            );
        }
    }
    if !without("plumb") {
        add("plumb", Kind::Plumb { program: systems::beside_us("examples/plumb")? })?;
    }
    if !without("redirect") {
        if systems::has_tc() {
            add("redirect", Kind::Redirect)?;
        } else {
            eprintln!("bench: there is no tc here (Debian: apt install iproute2): no redirect");
        }
    }
    if systems.is_empty() {
        return Err(LabError::Invalid("nothing is left to be measured".into()));
    }
    Ok(systems)
}
