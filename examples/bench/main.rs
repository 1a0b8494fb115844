//! Measures Tidegate beside the kernel's iptables and beside the bare copying of frames.
//!
//! Each system under test stands in three namespaces of its own (client, gateway, server, joined
//! by veth pairs) for the whole run, with the same rules where it has rules. The cells are short
//! and interleaved: every round measures every cell on every system, in turns, so that whatever
//! else the machine does hits all of them. What counts is the ratio inside a round.
//!
//! `scripts/bench` builds everything and calls this.

mod cells;
mod report;
mod systems;

use cells::{Cell, Measured};
use clap::Parser;
use report::Figures;
use std::path::PathBuf;
use std::time::Duration;
use systems::{Kind, System};
use tidegate::lab::error::{LabError, Result};
use tidegate::lab::privilege;

/// Measures Tidegate beside the kernel's iptables with the same rules in the same topology, and
/// beside the bare copying of frames between the same devices.
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
    /// Leave a system out: kernel, plumb; may be repeated.
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
    privilege::acquire()?;
    let (rounds, seconds) =
        if arguments.quick { (2, 0.5) } else { (arguments.rounds.max(1), arguments.seconds) };
    let time = Duration::from_secs_f64(seconds);
    let chosen = |cell: &Cell| {
        let only = &arguments.only;
        only.is_empty() || only.iter().any(|o| cell.name().contains(o.as_str()))
    };
    let cells: Vec<Cell> = Cell::ALL.into_iter().filter(chosen).collect();
    let systems = build(arguments)?;
    report::conditions(&systems, rounds, seconds);
    if let Some(seconds) = arguments.stand {
        std::thread::sleep(Duration::from_secs(seconds));
        return Ok(());
    }
    let mut figures = Figures::new(&cells, &systems);
    for round in 0..rounds {
        for (c, cell) in cells.iter().enumerate() {
            for turn in 0..systems.len() {
                // There and back, so that nobody always comes after the same neighbour.
                let s = if round % 2 == 0 { turn } else { systems.len() - 1 - turn };
                eprint!(
                    "\r\x1b[Kround {}/{rounds}: {}, {}",
                    round + 1,
                    cell.name(),
                    systems[s].name
                );
                let measured = cell.measure(&systems[s], time);
                if arguments.verbose {
                    eprintln!("\r\x1b[K{} {}: {measured:?}", systems[s].name, cell.name());
                }
                figures.add(c, s, measured);
            }
        }
    }
    eprint!("\r\x1b[K");
    figures.print();
    Ok(())
}

fn build(arguments: &Arguments) -> Result<Vec<System>> {
    let without = |name: &str| arguments.without.iter().any(|w| w == name);
    let own = systems::beside_us("tidegate")?;
    let mut systems = Vec::new();
    if !without("tidegate") {
        let kind = Kind::Tidegate { program: own, workers: arguments.workers };
        systems.push(System::build("tidegate", kind)?);
    }
    for (n, program) in arguments.also.iter().enumerate() {
        let (path, workers) = match program.rsplit_once('@') {
            Some((path, n)) => match n.parse() {
                Ok(n) => (path, Some(n)),
                Err(_) => return Err(LabError::Invalid(format!("{program}: {n} is no number"))),
            },
            None => (program.as_str(), arguments.workers),
        };
        let kind = Kind::Tidegate { program: PathBuf::from(path), workers };
        systems.push(System::build(&format!("also {}", n + 1), kind)?);
    }
    if !without("kernel") {
        if systems::has_iptables() {
            systems.push(System::build("kernel", Kind::Kernel)?);
        } else {
            eprintln!(
                "bench: there is no iptables-legacy-restore here (Debian: apt install iptables), \
                 so the kernel is not measured and nothing is compared with it"
            );
        }
    }
    if !without("plumb") {
        let program = systems::beside_us("examples/plumb")?;
        systems.push(System::build("plumb", Kind::Plumb { program })?);
    }
    Ok(systems)
}

/// The order in which systems are compared: Tidegate against each other one.
pub(crate) fn compared(systems: &[System]) -> Vec<(usize, usize)> {
    (1..systems.len()).map(|other| (0, other)).collect()
}

/// A cell's figure, or why there is none.
pub(crate) type Outcome = std::result::Result<Measured, String>;
