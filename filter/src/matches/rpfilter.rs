//! `-m rpfilter`: would an answer leave by the interface that the packet came in by?

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag};
use crate::query::{Hook, ReversePath, TableName};
use crate::values::list_saved;
use crate::values::save_name;

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[flag(&["loose"]), flag(&["validmark"]), flag(&["accept-local"]), flag(&["invert"])],
    tables: &[TableName::Mangle, TableName::Raw],
    hooks: &[Hook::Prerouting],
    ..Spec::new("rpfilter", build)
};

#[derive(Debug)]
struct RpFilter {
    loose: bool,
    valid_mark: bool,
    accept_local: bool,
    invert: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    Ok(Box::new(RpFilter {
        loose: given.has("loose"),
        valid_mark: given.has("validmark"),
        accept_local: given.has("accept-local"),
        invert: given.has("invert"),
    }))
}

impl Match for RpFilter {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let query = context.query;
        let question = ReversePath {
            src: query.packet.src,
            dst: query.packet.dst,
            input: query.input.unwrap_or(""),
            loose: self.loose,
            accept_local: self.accept_local,
            mark: if self.valid_mark { context.mark } else { 0 },
        };
        query.gateway.reverse_path(question) != self.invert
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _style: Listing) {
        out.push_str(" rpfilter");
        list_saved(out, |out| self.save(out));
    }

    fn save(&self, out: &mut String) {
        let Self { loose, valid_mark, accept_local, invert } = self;
        let given = [
            (loose, "loose"),
            (valid_mark, "validmark"),
            (accept_local, "accept-local"),
            (invert, "invert"),
        ];
        for (_, name) in given.into_iter().filter(|(given, _)| **given) {
            save_name(out, name, false);
        }
    }
}
