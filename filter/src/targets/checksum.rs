//! `CHECKSUM`: computes a checksum that was left to the device.

use crate::diagnostic::Outcome;
use crate::edit::Edit;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag};
use crate::query::TableName;
use crate::values::save_name;

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[flag(&["checksum-fill"])],
    tables: &[TableName::Mangle],
    ..Spec::new("CHECKSUM", build)
};

#[derive(Debug)]
struct Fill;

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    given.not_empty()?;
    Ok(Box::new(Fill))
}

impl Target for Fill {
    fn apply(&self, _: &mut Context<'_>) -> Next {
        Next::Edit(Edit::FillChecksum)
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(" CHECKSUM fill");
    }

    fn save(&self, out: &mut String) {
        save_name(out, "checksum-fill", false);
    }
}
