//! `SET`: puts what a packet has into a set, or takes it out.

use std::sync::Arc;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag, value};
use crate::matches::set::set_and_sides;
use crate::sets::{Question, Set, Sides};
use crate::values::{list_saved, save_name, save_option};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[
        value(&["add-set"]).pair(),
        value(&["del-set"]).pair(),
        value(&["timeout"]),
        flag(&["exist"]),
    ],
    ..Spec::new("SET", build)
};

#[derive(Debug)]
struct Change {
    add: Option<(Arc<Set>, Question)>,
    delete: Option<(Arc<Set>, Question)>,
    timeout: Option<u32>,
    exist: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let asked = |name: &str| match given.get(name) {
        Some(option) => {
            set_and_sides(given, &option.values).map(|(set, s)| Some((set, question(given, s))))
        }
        None => Ok(None),
    };
    let (add, delete) = (asked("add-set")?, asked("del-set")?);
    if add.is_none() && delete.is_none() {
        return Err(given.wrong("--add-set or --del-set must be given"));
    }
    let (timeout, exist) = (given.value("timeout"), given.has("exist"));
    if add.is_none() && (timeout.is_some() || exist) {
        return Err(given.wrong("--timeout and --exist go only with --add-set"));
    }
    let timeout = match timeout {
        // Milliseconds of 32 bits in the kernel.
        Some((word, _)) => Some(word.number(0..=u64::from(u32::MAX / 1000))? as u32),
        None => None,
    };
    Ok(Box::new(Change { add, delete, timeout, exist }))
}

fn question(given: &Given<'_>, sides: Sides) -> Question {
    Question {
        family: given.family,
        sides,
        return_nomatch: false,
        count: false,
        packets: None,
        bytes: None,
    }
}

impl Target for Change {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        if context.dry {
            return Next::Continue;
        }
        if let Some((set, question)) = &self.add {
            set.add_packet(context.query, question, self.timeout, self.exist);
        }
        if let Some((set, question)) = &self.delete {
            set.delete_packet(context.query, question);
        }
        Next::Continue
    }

    fn list(&self, out: &mut String, _: Listing) {
        list_saved(out, |out| self.save(out));
    }

    fn save(&self, out: &mut String) {
        for (name, asked) in [("add-set", &self.add), ("del-set", &self.delete)] {
            if let Some((set, question)) = asked {
                save_option(
                    out,
                    name,
                    false,
                    format_args!("{} {}", set.name, question.sides.text()),
                );
            }
        }
        if self.exist {
            save_name(out, "exist", false);
        }
        if let Some(timeout) = self.timeout {
            save_option(out, "timeout", false, timeout);
        }
    }
}
