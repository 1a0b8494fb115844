//! One rule of the AST → one or more rules: address lists are multiplied out.

use std::cell::RefCell;
use std::ops::Range;

use super::Draftbook;
use tidegate_packet::Family;

use crate::ast::*;
use crate::base::{Address, Base, Protocol};
use crate::counters::{Adjust, Count, Slots};
use crate::diagnostic::{Outcome, Problem, Refusal};
use crate::extension::{Given, Spec};
use crate::lex::Word;
use crate::query::{Hook, TableName};
use crate::ruleset::{Action, NamedMatch, Rule};
use crate::targets;

/// Where a rule or a policy is counted, and from what.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Tally {
    /// Where it was, going on.
    Kept,
    /// Where it was, less what has been seen.
    Zeroed,
    /// Where it was, from this.
    Set(Count),
    /// In a place of its own, from this.
    Fresh(Count),
}

impl Tally {
    pub fn zeroed(self) -> Self {
        match self {
            Self::Kept | Self::Zeroed => Self::Zeroed,
            Self::Set(_) => Self::Set(Count::default()),
            Self::Fresh(_) => Self::Fresh(Count::default()),
        }
    }

    pub fn set(self, count: Count) -> Self {
        match self {
            Self::Fresh(_) => Self::Fresh(count),
            _ => Self::Set(count),
        }
    }

    /// Whether it has a place.
    pub fn is_old(self) -> bool {
        !matches!(self, Self::Fresh(_))
    }

    /// Its place in the counters: the old one or a new one.
    pub fn place(self, old: usize, slots: &mut Slots) -> usize {
        match self {
            Self::Kept => {}
            Self::Zeroed => slots.adjust(old, Adjust::Zero),
            Self::Set(count) => slots.adjust(old, Adjust::Set(count)),
            Self::Fresh(count) => return slots.take(count),
        }
        old
    }
}

/// A rule, with the places that later checks may complain about.
pub(super) struct Draft {
    pub rule: Rule,
    /// What the counters are to become; the rule's own place for a rule that was there before.
    pub count: Tally,
    /// Where the names of the matches stand, if one of them may be complained about, and that of the
    /// target.
    pub match_spans: Vec<Range<usize>>,
    pub target_span: Range<usize>,
    /// All of it.
    pub span: Range<usize>,
}

impl Draft {
    /// A rule that is in force.
    pub fn present(rule: &Rule) -> Self {
        let (match_spans, target_span, span) = Default::default();
        Self { rule: rule.clone(), count: Tally::Kept, match_spans, target_span, span }
    }

    /// What iptables says where there is no such rule. libiptc asks first whether the target is a
    /// chain, and then words the failure of that question.
    pub fn absent(&self) -> Refusal {
        match self.rule.action {
            Action::Jump(_) | Action::Goto(_) | Action::Target(..) => Refusal::NoChain,
            Action::None | Action::Accept | Action::Drop | Action::Return => Refusal::NoRule,
        }
    }
}

/// Names that `-j` knows without any extension.
pub(super) fn is_verdict(name: &str) -> bool {
    matches!(name, "ACCEPT" | "DROP" | "RETURN" | "QUEUE")
}

pub(super) fn no_filtering_in_nat(word: &Word<'_>) -> Problem {
    word.wrong("DROP is not allowed in the nat table")
        .help("it sees only the first packet of a connection; filter in *filter")
        .words(
            "\nThe \"nat\" table is not intended for filtering, the use of DROP is therefore \
             inhibited.\n\n",
        )
}

/// Appends the rules that a line stands for.
pub(super) fn drafts(
    book: &Draftbook,
    chain: &Word<'_>,
    ast: &RuleAst<'_>,
    warnings: &mut Vec<Problem>,
    drafts: &mut Vec<Draft>,
) -> Outcome<()> {
    check_interfaces(chain, ast)?;
    for (interface, word) in ast.input.iter().chain(&ast.output) {
        if interface.is_any() && interface.inverted {
            warnings.push(word.wrong("! + is no interface at all: this rule never matches"));
        }
    }
    let told = RefCell::default();
    for source in networks(ast.sources.as_ref(), book.family) {
        for destination in networks(ast.destinations.as_ref(), book.family) {
            drafts.push(draft(book, ast, source, destination, &told)?);
        }
    }
    // A line of many rules tells each thing once.
    let mut told = told.into_inner();
    told.dedup_by(|a, b| a.span == b.span && a.message == b.message);
    warnings.extend(told);
    Ok(())
}

/// The addresses of `-s` or `-d`, each of which makes a rule.
fn networks(list: Option<&Addresses>, family: Family) -> impl Iterator<Item = Address> {
    let any = list.is_none().then(|| Address::any(family));
    let listed = list.into_iter().flat_map(|Addresses { networks, inverted }| {
        networks.iter().map(|&network| Address { network, inverted: *inverted })
    });
    any.into_iter().chain(listed)
}

/// A packet has no input interface in OUTPUT and POSTROUTING, no output interface in PREROUTING
/// and INPUT.
fn check_interfaces(chain: &Word<'_>, ast: &RuleAst<'_>) -> Outcome<()> {
    let named = |hooks: [Hook; 2]| hooks.iter().any(|h| h.chain_name() == chain.text);
    let wrong = |word: &Word<'_>| {
        let letter = if word.text.starts_with("--i") || word.text == "-i" { 'i' } else { 'o' };
        let words = format!("Can't use -{letter} with {}\n", chain.text);
        Err(word.wrong(format!("{} can't be used in {}", word.text, chain.text)).words(words))
    };
    match (&ast.input, &ast.output) {
        (Some((_, word)), _) if named([Hook::Output, Hook::Postrouting]) => wrong(word),
        (_, Some((_, word))) if named([Hook::Prerouting, Hook::Input]) => wrong(word),
        _ => Ok(()),
    }
}

fn draft<'a>(
    book: &'a Draftbook,
    ast: &'a RuleAst<'a>,
    source: Address,
    destination: Address,
    warnings: &'a RefCell<Vec<Problem>>,
) -> Outcome<Draft> {
    let protocol = ast.protocol.as_ref().filter(|p| p.number != 0);
    let given = |extension| Given {
        family: book.family,
        table: book.name,
        protocol: protocol.filter(|p| !p.inverted).map(|p| p.number),
        extension,
        sets: &book.sets,
        warnings,
    };
    let mut matches = Vec::with_capacity(ast.matches.len());
    for MatchAst { spec, extension } in &ast.matches {
        let given = given(extension);
        check_place(spec, &given)?;
        matches.push(NamedMatch {
            spec,
            test: (spec.build)(&given).map_err(|p| p.of_option(extension))?,
        });
    }
    let mut target_span = ast.span.clone();
    let action = match &ast.action {
        ActionAst::None => Action::None,
        ActionAst::Jump(name) => {
            target_span = name.span.clone();
            jump(book, name)?
        }
        ActionAst::Goto(name) => {
            target_span = name.span.clone();
            if book.find(&name.text).is_none() {
                return Err(name
                    .wrong(format!("there is no chain `{}` to go to", name.text))
                    .help("a chain must be declared before rules use it")
                    .words(format!("goto '{}' is not a chain", name.text)));
            }
            Action::Goto(own_chain(book, name)?)
        }
        ActionAst::Target { spec, extension } => {
            target_span = extension.name.span.clone();
            let given = given(extension);
            check_place(spec, &given)?;
            Action::Target(spec, (spec.build)(&given).map_err(|p| p.of_option(extension))?)
        }
    };
    let mut base = Base::new(source, destination);
    base.input = ast.input.as_ref().map(|(i, _)| i.clone());
    base.output = ast.output.as_ref().map(|(o, _)| o.clone());
    base.protocol = protocol.map(|p| Protocol { number: p.number, inverted: p.inverted });
    base.fragment = ast.fragment;
    let rule = Rule::new(base, matches.into(), action);
    let named = rule.tied || rule.matches.iter().any(|m| m.test.never_new());
    let spans = ast.matches.iter().filter(|_| named).map(|m| m.extension.name.span.clone());
    Ok(Draft {
        match_spans: spans.collect(),
        rule,
        count: Tally::Fresh(ast.count),
        target_span,
        span: ast.span.clone(),
    })
}

fn jump(book: &Draftbook, name: &Word<'_>) -> Outcome<Action> {
    Ok(match &*name.text {
        "ACCEPT" => Action::Accept,
        "DROP" if book.name == TableName::Nat => return Err(no_filtering_in_nat(name)),
        "DROP" => Action::Drop,
        "RETURN" => Action::Return,
        "QUEUE" => {
            return Err(name.wrong("QUEUE needs a program to ask, and there is none here"));
        }
        _ => Action::Jump(own_chain(book, name)?),
    })
}

/// The number of a chain that may be jumped to.
fn own_chain(book: &Draftbook, name: &Word<'_>) -> Outcome<usize> {
    match book.find(&name.text) {
        Some(at) if book.chains[at].hook.is_none() => Ok(at),
        Some(_) => Err(name
            .wrong(format!("`{}` is a built-in chain, not one to jump to", name.text))
            .refused(Refusal::Invalid)),
        None => Err(match targets::refused(&name.text) {
            Some(why) => name.wrong(format!("{} {why}", name.text)),
            None => name
                .wrong(format!("there is no chain or target `{}`", name.text))
                .help("a chain must be declared before rules use it")
                .nearest(
                    &name.text,
                    targets::names(book.family)
                        .map(|name| -> &str { name })
                        .chain(book.chain_names()),
                )
                .words(format!("Couldn't load target `{}':No such file or directory\n", name.text)),
        }),
    }
}

/// The table and protocol that an extension asks for.
fn check_place<T>(spec: &Spec<T>, given: &Given<'_>) -> Outcome<()> {
    if !spec.tables.is_empty() && !spec.tables.contains(&given.table) {
        let tables: Vec<_> = spec.tables.iter().map(|t| t.as_str()).collect();
        return Err(given
            .wrong(format!("not allowed in table {}", given.table.as_str()))
            .help(format!("expected table {}", tables.join(" or ")))
            .refused(Refusal::Invalid));
    }
    let fits = given.protocol.is_some_and(|p| spec.protocols.contains(&p));
    if !spec.protocols.is_empty() && !fits {
        let names: Vec<_> = spec
            .protocols
            .iter()
            .filter_map(|p| crate::names::protocol_name(*p))
            .map(|name| format!("-p {name}"))
            .collect();
        let problem = given
            .wrong("the rule's protocol doesn't fit")
            .help(format!("expected {}", names.join(" or ")));
        // Others leave it to the kernel to look.
        return Err(match (spec.name, given.protocol) {
            ("multiport", None) => problem
                .words("multiport needs `-p tcp', `-p udp', `-p udplite', `-p sctp' or `-p dccp'"),
            ("multiport", Some(_)) => {
                problem.words("multiport only works with TCP, UDP, UDPLITE, SCTP and DCCP")
            }
            _ => problem.refused(Refusal::Invalid),
        });
    }
    Ok(())
}
