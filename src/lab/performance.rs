//! A run of the lab: builds it, tries the rows, shows how far it is, and ends early when it is
//! told to.
//!
//! The work is done by a thread of its own, so that Ctrl-C is heard whatever the work waits for.

use std::io::{self, IsTerminal, Write};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::error::{Doing, LabError, Result};
use super::rows::{self, Row, Seen};
use super::scene::{Devices, Plan, Scene};
use super::table::{Look, Table};

/// How often Ctrl-C is looked for.
const LOOK_UP: Duration = Duration::from_millis(50);

/// In which form the outcome is shown.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// A table, row by row as they are done.
    Table,
    /// One JSON document at the end.
    Json,
}

/// How a run ended.
#[derive(Debug)]
pub enum Ended {
    /// All rows were tried.
    Finished {
        /// Rows whose outcome wasn't what the rules say.
        wrong: usize,
        /// The lab, still standing.
        scene: Arc<Scene>,
    },
    /// It was told to end; the gateway is stopped.
    Interrupted,
}

enum Event {
    Built(Result<Arc<Scene>>),
    Trying(usize),
    Done(usize, Seen),
}

/// Builds what `plan` says, calls `built`, tries all rows and shows what happened.
pub fn run(
    plan: Plan,
    show: Show,
    interrupted: &Arc<AtomicBool>,
    built: impl FnOnce(&Scene) -> Result<()>,
) -> Result<Ended> {
    let rows = Arc::new(rows::all());
    let mut progress = Progress::default();
    progress.say(match plan.devices {
        Devices::AfPacket => "building nine namespaces and starting the gateway on packet sockets",
        Devices::Tap => "building nine namespaces and starting the gateway on TAP devices",
    });
    let (tx, rx) = mpsc::channel();
    let worker = {
        let (rows, interrupted) = (Arc::clone(&rows), Arc::clone(interrupted));
        thread::spawn(move || work(&plan, &rows, &interrupted, &tx))
    };
    let mut built = Some(built);
    let mut outcome = Outcome::new(show, &rows);
    let mut scene: Option<Arc<Scene>> = None;
    loop {
        match rx.recv_timeout(LOOK_UP) {
            Ok(Event::Built(new)) => {
                let new = new?;
                if let Some(built) = built.take() {
                    built(&new)?;
                }
                scene = Some(new);
                outcome.begin()?;
            }
            Ok(Event::Trying(index)) => {
                progress.say(&format!("{}/{} {}", index + 1, rows.len(), rows[index].tried));
            }
            Ok(Event::Done(index, seen)) => {
                progress.clear();
                outcome.row(&rows[index], seen)?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if interrupted.load(Ordering::Relaxed) {
            progress.clear();
            if let Some(scene) = scene {
                scene.gateway.stop();
            }
            return Ok(Ended::Interrupted);
        }
    }
    progress.clear();
    if let Err(panic) = worker.join() {
        panic::resume_unwind(panic);
    }
    let wrong = outcome.finish()?;
    let scene = scene.ok_or_else(|| LabError::Invalid("the lab was not built".into()))?;
    Ok(Ended::Finished { wrong, scene })
}

fn work(plan: &Plan, rows: &[Row], interrupted: &AtomicBool, events: &Sender<Event>) {
    // Nobody listens any more once the run was interrupted.
    let tell = |event| events.send(event).is_ok();
    let scene = match Scene::build(plan) {
        Ok(scene) => Arc::new(scene),
        Err(e) => {
            tell(Event::Built(Err(e)));
            return;
        }
    };
    if !tell(Event::Built(Ok(Arc::clone(&scene)))) {
        return;
    }
    for (index, row) in rows.iter().enumerate() {
        if interrupted.load(Ordering::Relaxed)
            || !tell(Event::Trying(index))
            || !tell(Event::Done(index, row.run(&scene)))
        {
            return;
        }
    }
}

/// Where the outcome goes: a table at once, JSON in the end.
struct Outcome<'a> {
    rows: &'a [Row],
    show: Show,
    table: Option<Table<io::Stdout>>,
    tried: Vec<serde_json::Value>,
    wrong: usize,
}

impl<'a> Outcome<'a> {
    fn new(show: Show, rows: &'a [Row]) -> Self {
        Self { rows, show, table: None, tried: Vec::new(), wrong: 0 }
    }

    fn begin(&mut self) -> Result<()> {
        if self.show == Show::Table {
            let out = io::stdout();
            let look = Look::of(&out);
            self.table = Some(Table::new(out, look, self.rows).doing(|| "writing the table")?);
        }
        Ok(())
    }

    fn row(&mut self, row: &Row, seen: Seen) -> Result<()> {
        if let Some(table) = &mut self.table {
            return table.row(row, &seen).doing(|| "writing the table");
        }
        let right = row.expected == seen.happened;
        self.wrong += usize::from(!right);
        self.tried.push(json!({
            "section": row.section,
            "tried": row.tried,
            "rules": row.why,
            "expected": row.expected,
            "happened": seen.happened,
            "figure": seen.figure,
            "right": right,
        }));
        Ok(())
    }

    fn finish(self) -> Result<usize> {
        let Self { table, tried, wrong, .. } = self;
        if let Some(table) = table {
            return table.finish().doing(|| "writing the table");
        }
        let document = json!({ "rows": tried, "wrong": wrong });
        writeln!(io::stdout(), "{document:#}").doing(|| "writing JSON")?;
        Ok(wrong)
    }
}

/// What is being done, in a line of standard error that is overwritten; on anything but a
/// terminal, nothing but the first.
#[derive(Default)]
struct Progress {
    said: bool,
}

impl Progress {
    fn say(&mut self, what: &str) {
        let mut err = io::stderr();
        // Progress that cannot be shown is no reason to stop.
        let _ = if err.is_terminal() {
            write!(err, "\r\x1b[K{what} …").and_then(|()| err.flush())
        } else if self.said {
            Ok(())
        } else {
            writeln!(err, "{what} ...")
        };
        self.said = true;
    }

    fn clear(&self) {
        let mut err = io::stderr();
        if err.is_terminal() {
            let _ = write!(err, "\r\x1b[K").and_then(|()| err.flush());
        }
    }
}
