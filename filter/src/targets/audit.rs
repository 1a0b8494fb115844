//! `AUDIT`: a record of the packet, and on to the next rule.

use crate::diagnostic::Outcome;
use crate::effects::AuditRecord;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, value};
use crate::values::save_option;

pub(crate) static SPEC: TargetSpec =
    TargetSpec { options: &[value(&["type"])], ..Spec::new("AUDIT", build) };

/// What the rule says will become of the packet; a note to the reader.
const KINDS: [&str; 3] = ["accept", "drop", "reject"];

#[derive(Debug)]
struct Audit(&'static str);

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let (word, _) = given.required("type")?;
    let kind = KINDS.into_iter().find(|kind| word.text.eq_ignore_ascii_case(kind));
    kind.map(|kind| Box::new(Audit(kind)) as Box<dyn Target>).ok_or_else(|| {
        word.wrong(format!("unknown type `{}`", word.text)).help("expected accept, drop or reject")
    })
}

impl Target for Audit {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        context.effects.audit(AuditRecord { query: context.query, mark: context.mark });
        Next::Continue
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(" AUDIT ");
        out.push_str(self.0);
    }

    fn save(&self, out: &mut String) {
        save_option(out, "type", false, self.0);
    }
}
