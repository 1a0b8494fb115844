//! `ECN`: takes explicit congestion notification (RFC 3168) out of IPv4 and TCP headers.

use tidegate_packet::{Family, protocol, tcp};

use crate::diagnostic::Outcome;
use crate::edit::{Edit, HeaderEdit};
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag};
use crate::query::TableName;
use crate::values::save_name;

pub(crate) static SPEC: TargetSpec = TargetSpec {
    families: &[Family::V4],
    options: &[flag(&["ecn-tcp-remove"])],
    tables: &[TableName::Mangle],
    protocols: &[protocol::TCP],
    ..Spec::new("ECN", build)
};

#[derive(Debug)]
struct RemoveFromTcp;

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    given.not_empty()?;
    Ok(Box::new(RemoveFromTcp))
}

impl Target for RemoveFromTcp {
    fn apply(&self, _: &mut Context<'_>) -> Next {
        let clear = tcp::ECE | tcp::CWR;
        Next::Edit(Edit::Header(HeaderEdit::TcpFlags { clear, set: 0 }))
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(" ECN TCP remove");
    }

    fn save(&self, out: &mut String) {
        save_name(out, "ecn-tcp-remove", false);
    }
}
