//! `-m set`: whether a packet is in a set.

use tidegate_packet::Family;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::lex::Word;
use crate::query::Query;
use crate::sets::{CounterTest, MAX_SIDES, Question, Reference, Sides};
use crate::values::{list_saved, save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["match-set", "set"]).pair().inverts(),
        flag(&["return-nomatch"]),
        flag(&["update-counters"]).inverts(),
        flag(&["update-subcounters"]).inverts(),
        value(&["packets-eq"]).inverts(),
        value(&["packets-lt"]),
        value(&["packets-gt"]),
        value(&["bytes-eq"]).inverts(),
        value(&["bytes-lt"]),
        value(&["bytes-gt"]),
    ],
    ..Spec::new("set", build)
};

#[derive(Debug)]
struct InSet {
    set: Reference,
    inverted: bool,
    question: Question,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let Some(option) = given.get("match-set") else {
        return Err(given.wrong("--match-set must be given"));
    };
    let (set, sides) = set_and_sides(given, &option.values)?;
    let counter = |names: [&str; 3]| -> Outcome<Option<CounterTest>> {
        given.exclusive(&names)?;
        let Some(option) = names.iter().find_map(|name| given.get(name)) else { return Ok(None) };
        let Some(word) = option.values.first() else { return Ok(None) };
        let count = word.number(0..=u64::MAX)?;
        Ok(Some(match option.opt.names[0].rsplit('-').next() {
            Some("lt") => CounterTest::Less(count),
            Some("gt") => CounterTest::Greater(count),
            _ if option.inverted => CounterTest::NotEqual(count),
            _ => CounterTest::Equal(count),
        }))
    };
    let packets = counter(["packets-eq", "packets-lt", "packets-gt"])?;
    let bytes = counter(["bytes-eq", "bytes-lt", "bytes-gt"])?;
    let negated = |name: &str| given.get(name).is_some_and(|option| option.inverted);
    let question = Question {
        family: given.family,
        sides,
        return_nomatch: given.has("return-nomatch"),
        count: !negated("update-counters"),
        count_members: !negated("update-subcounters"),
        packets,
        bytes,
    };
    Ok(Box::new(InSet { set, inverted: option.inverted, question }))
}

/// A set's name and what of the packet to look up in it.
pub(crate) fn set_and_sides(given: &Given<'_>, words: &[Word<'_>]) -> Outcome<(Reference, Sides)> {
    let [name, list] = words else {
        return Err(given.wrong("a set and src or dst must be given"));
    };
    let Some(set) = given.sets.hold(&name.text) else {
        return Err(name
            .wrong(format!("there is no set `{}`", name.text))
            .words(format!("Set {} doesn't exist.\n", name.text))
            .help("sets are made before the rules that name them")
            .nearest(&name.text, given.sets.names().iter().map(String::as_str)));
    };
    if let Some(family) = set.only_family().filter(|family| *family != given.family) {
        let of = if family == Family::V4 { "IPv4" } else { "IPv6" };
        return Err(name.wrong(format!("set `{}` is for {of}", name.text)).words(format!(
            "The protocol family of set {} is {of}, which is not applicable.\n",
            name.text
        )));
    }
    let mut sides = Sides::default();
    for part in list.list() {
        let source = match &*part.text {
            "src" => true,
            "dst" => false,
            _ => {
                return Err(part
                    .wrong("expected src or dst")
                    .words("You must spefify (the comma separated list of) 'src' or 'dst'."));
            }
        };
        if !sides.push(source) {
            return Err(list
                .wrong(format!("at most {MAX_SIDES} of src and dst"))
                .words(format!("Can't be more src/dst options than {MAX_SIDES}.")));
        }
    }
    if set.never_matches(given.family, sides.len()) {
        given
            .warn(format!("set `{}` is of another family or needs more of src and dst", name.text));
    }
    Ok((set, sides))
}

/// A packet with the mark that targets on its way have given it.
pub(crate) fn marked<'a>(context: &Context<'a>) -> Query<'a> {
    Query { mark: context.mark, ..*context.query }
}

fn save_test(out: &mut String, what: &str, test: Option<CounterTest>) {
    let (kind, count) = match test {
        None => return,
        Some(CounterTest::Equal(n) | CounterTest::NotEqual(n)) => ("eq", n),
        Some(CounterTest::Less(n)) => ("lt", n),
        Some(CounterTest::Greater(n)) => ("gt", n),
    };
    let inverted = matches!(test, Some(CounterTest::NotEqual(_)));
    save_option(out, &format!("{what}-{kind}"), inverted, count);
}

impl Match for InSet {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        self.set.test(&marked(context), &self.question, context.dry) != self.inverted
    }

    fn flow_only(&self) -> bool {
        self.set.is_steady(&self.question)
    }

    fn list(&self, out: &mut String, _style: Listing) {
        list_saved(out, |out| self.save(out));
    }

    fn save(&self, out: &mut String) {
        let Question { family: _, sides, return_nomatch, count, count_members, packets, bytes } =
            &self.question;
        save_option(
            out,
            "match-set",
            self.inverted,
            format_args!("{} {}", self.set.name, sides.text()),
        );
        if *return_nomatch {
            save_name(out, "return-nomatch", false);
        }
        if !count {
            save_name(out, "update-counters", true);
        }
        if !count_members {
            save_name(out, "update-subcounters", true);
        }
        save_test(out, "packets", *packets);
        save_test(out, "bytes", *bytes);
    }
}
