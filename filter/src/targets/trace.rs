//! `TRACE`: every rule that the packet meets from here on is told.

use crate::diagnostic::Outcome;
use crate::edit::Edit;
use crate::extension::{Context, Given, Next, Spec, Target, TargetSpec};
use crate::query::TableName;

pub(crate) static SPEC: TargetSpec =
    TargetSpec { tables: &[TableName::Raw], ..Spec::new("TRACE", build) };

#[derive(Debug)]
struct Trace;

fn build(_: &Given<'_>) -> Outcome<Box<dyn Target>> {
    Ok(Box::new(Trace))
}

impl Target for Trace {
    fn apply(&self, _: &mut Context<'_>) -> Next {
        Next::Edit(Edit::Trace)
    }

    fn save(&self, _: &mut String) {}
}
