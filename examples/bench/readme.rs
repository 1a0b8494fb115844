//! The table of README.md, written anew from a run.

use std::fmt::Write as _;

use crate::report::{Run, median, spread};

const BEGIN: &str = "<!-- scripts/bench --readme writes from here -->\n";
const END: &str = "<!-- to here -->\n";

/// The text with a run's table between the marks; `None` without them.
pub fn with_table(text: &str, run: &Run) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}{END}{after}", table(run)))
}

/// Ours and the first that we are compared with, which are shown with their spread.
const IN_FULL: usize = 2;

fn shown(system: usize, values: &[Option<f64>]) -> String {
    if system < IN_FULL { spread(values) } else { median(values) }
}

fn table(run: &Run) -> String {
    let mut text = String::from("| median (min–max) |");
    for system in &run.systems {
        let _ = write!(text, " {} |", system.name);
    }
    let others = 1..run.systems.len();
    for other in others.clone() {
        let _ = write!(text, " {} / {} |", run.systems[0].name, run.systems[other].name);
    }
    text.push_str("\n|---");
    text.push_str(&"|---".repeat(run.systems.len() + others.len()));
    text.push_str("|\n");
    for row in &run.rows {
        let _ = write!(text, "| {}, {} |", row.name, row.unit);
        for (system, values) in row.values.iter().enumerate() {
            let _ = write!(text, " {} |", shown(system, values));
        }
        for other in others.clone() {
            let _ = write!(text, " {} |", shown(other, &row.ratios(other)));
        }
        text.push('\n');
    }
    let Run { machine, kernel, load, rounds, seconds, .. } = run;
    let _ = writeln!(
        text,
        "\n{machine}, Linux {kernel}, veth pairs, MTU 1500, the page's gateway rules, {rounds} rounds of \
         {seconds} s a cell, load {load} at the start. Ratios are taken round by round; of times and of \
         the idle gateway less is better."
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Described, Row};

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let described = |name: &str| Described { name: name.into(), what: String::new() };
        let run = Run {
            machine: "2 cores".into(),
            kernel: "6.18".into(),
            load: "0.1".into(),
            rounds: 3,
            seconds: 1.5,
            systems: vec![described("a"), described("b")],
            rows: vec![Row {
                name: "UDP".into(),
                unit: "Mpps".into(),
                more: true,
                values: vec![
                    vec![Some(1.0), Some(3.0), Some(2.0)],
                    vec![Some(1.0), None, Some(4.0)],
                ],
            }],
            cpu: Vec::new(),
            failures: Vec::new(),
        };
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        let new = with_table(&text, &run).expect("marks");
        assert!(new.starts_with(&format!("before\n{BEGIN}| median (min–max) | a | b | a / b |\n")));
        assert!(new.contains(
            "\n| UDP, Mpps | 2.00 (1.00–3.00) | 2.50 (1.00–4.00) | 0.75 (0.50–1.00) |\n"
        ));
        assert!(new.ends_with(&format!("{END}after\n")) && !new.contains("old"));
        assert_eq!(with_table(&new, &run).as_deref(), Some(new.as_str()));
        assert_eq!(with_table("no marks", &run), None);
    }
}
