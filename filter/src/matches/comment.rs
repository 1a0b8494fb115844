//! `-m comment`: a note to the reader, which matches everything.

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::{save_name, save_string};

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["comment"])], ..Spec::new("comment", build) };

/// `XT_MAX_COMMENT_LEN` less the final zero.
const MAX_LEN: usize = 255;

#[derive(Debug)]
struct Comment(String);

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, _) = given.required("comment")?;
    if word.text.len() > MAX_LEN {
        return Err(word.wrong("the comment is too long").help(format!("at most {MAX_LEN} bytes")));
    }
    Ok(Box::new(Comment(word.text.to_string())))
}

impl Match for Comment {
    fn matches(&self, _: &mut Context<'_>) -> bool {
        true
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _style: Listing) {
        out.push_str(" /* ");
        out.push_str(&self.0);
        out.push_str(" */");
    }

    fn is_pure(&self) -> bool {
        true
    }

    fn save(&self, out: &mut String) {
        save_name(out, "comment", false);
        save_string(out, &self.0);
    }
}
