//! What an extension (a match or a target) is, and how it gets at its options.

use std::cell::RefCell;
use std::fmt;

use tidegate_packet::Family;

use crate::ast::{ExtensionAst, OptionAst};
use crate::classify::{AddressesWanted, PortsWanted};
use crate::diagnostic::{Outcome, Problem};
use crate::edit::Edit;
use crate::effects::Effects;
use crate::lex::Word;
use crate::memory::{Memory, hashlimit};
use crate::query::{Hook, Query, TableName};
use crate::sets::Sets;
use crate::verdict::Verdict;

/// One option of an extension.
#[derive(Debug)]
pub(crate) struct Opt {
    /// Its spellings; the first is the canonical one.
    pub names: &'static [&'static str],
    /// How many values follow it.
    pub values: u8,
    /// Whether `!` may stand before it.
    pub invert: bool,
    /// Whether it may be given more than once.
    pub repeats: bool,
}

/// An option without a value.
pub(crate) const fn flag(names: &'static [&'static str]) -> Opt {
    Opt { names, values: 0, invert: false, repeats: false }
}

/// An option with one value.
pub(crate) const fn value(names: &'static [&'static str]) -> Opt {
    Opt { names, values: 1, invert: false, repeats: false }
}

impl Opt {
    /// The same option, and `!` may stand before it.
    pub const fn inverts(mut self) -> Self {
        self.invert = true;
        self
    }

    /// The same option, and it may be given more than once.
    pub const fn repeats(mut self) -> Self {
        self.repeats = true;
        self
    }

    /// The same option with two values.
    pub const fn pair(mut self) -> Self {
        self.values = 2;
        self
    }
}

/// What is known of an extension before its options are read.
#[derive(Debug)]
pub(crate) struct Spec<T: 'static> {
    /// The name after `-m` or `-j`.
    pub name: &'static str,
    /// Other names for it, which are not printed.
    pub aliases: &'static [&'static str],
    /// The families it exists in.
    pub families: &'static [Family],
    /// Its options.
    pub options: &'static [Opt],
    /// Tables it is allowed in; empty: all.
    pub tables: &'static [TableName],
    /// Hooks it is allowed at; empty: all.
    pub hooks: &'static [Hook],
    /// Protocols that the rule must name with `-p`; empty: any rule.
    pub protocols: &'static [u8],
    /// Makes it from its options.
    pub build: fn(&Given<'_>) -> Outcome<T>,
}

/// Both families.
pub(crate) const BOTH: &[Family] = &[Family::V4, Family::V6];

pub(crate) type MatchSpec = Spec<Box<dyn Match>>;
pub(crate) type TargetSpec = Spec<Box<dyn Target>>;

impl<T> Spec<T> {
    /// Nothing but a name: the base that each extension's own facts are written over.
    pub const fn new(name: &'static str, build: fn(&Given<'_>) -> Outcome<T>) -> Self {
        Self {
            name,
            aliases: &[],
            families: BOTH,
            options: &[],
            tables: &[],
            hooks: &[],
            protocols: &[],
            build,
        }
    }

    pub fn answers_to(&self, name: &str, family: Family) -> bool {
        (self.name == name || self.aliases.contains(&name)) && self.families.contains(&family)
    }
}

/// What a walk through a table knows and changes.
pub(crate) struct Context<'a> {
    pub query: &'a Query<'a>,
    pub table: TableName,
    pub hook: Hook,
    pub memory: &'a Memory,
    pub effects: &'a mut dyn Effects,
    /// The mark as targets on the way have left it.
    pub mark: u32,
    /// Labels that matches on the way have given to the connection.
    pub labels: u128,
    /// Random numbers drawn so far.
    pub draws: u64,
    /// Set by a match that found the packet unfit to be looked at: it is dropped at once.
    pub hotdrop: bool,
    /// A question, not a packet: nothing may be remembered.
    pub dry: bool,
}

impl Context<'_> {
    /// The next of the random numbers that follow from the packet's (SplitMix64).
    pub fn random(&mut self) -> u64 {
        self.draws += 1;
        let mut z = self.query.random.wrapping_add(self.draws.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// How `iptables -L` is to show an extension.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Listing {
    /// Numbers instead of names (`-n`).
    pub numeric: bool,
    /// The rule's protocol, if it is one.
    pub protocol: Option<u8>,
}

/// A match that validation has made.
pub(crate) trait Match: fmt::Debug + Send + Sync {
    /// Whether the packet matches. Called only when everything before it in the rule matched.
    fn matches(&self, context: &mut Context<'_>) -> bool;

    /// Appends the options, each with a blank before it, as iptables-save prints them.
    fn save(&self, out: &mut String);

    /// Appends what `iptables -L` shows of it, a blank before each word. By default the options as
    /// they are saved.
    fn list(&self, out: &mut String, _style: Listing) {
        self.save(out);
    }

    /// Whether asking it changes nothing: it remembers nothing and never drops the packet.
    fn is_pure(&self) -> bool {
        false
    }

    /// Whether its answer, once given for a packet, holds for the rest of the packet's flow: see
    /// [`crate::Trail`] for what that means exactly. A match that remembers, or that looks at the
    /// packet's length, its payload or the clock, must not say so.
    fn flow_only(&self) -> bool {
        false
    }

    /// The ports without which it is false, and which it can be told by: for packets whose ports
    /// can be read it changes nothing to ask it.
    fn ports(&self) -> Option<PortsWanted<'_>> {
        None
    }

    /// The addresses without which it is false.
    fn addresses(&self) -> Option<AddressesWanted> {
        None
    }

    /// Whether its presence makes the kernel track connections.
    fn uses_conntrack(&self) -> bool {
        false
    }

    /// Whether it can't match the first packet of a connection.
    fn never_new(&self) -> bool {
        false
    }

    /// Whether its presence makes the kernel count what connections carry.
    fn needs_accounting(&self) -> bool {
        false
    }

    /// The `recent` list it uses.
    fn recent(&self) -> Option<RecentUse<'_>> {
        None
    }

    /// The `hashlimit` table it uses.
    fn hashlimit(&self) -> Option<hashlimit::Use<'_>> {
        None
    }

    /// Called when the place of the rule is known: the hooks from which it can be reached.
    fn check_hooks(&self, _hooks: u8) -> Result<(), &'static str> {
        Ok(())
    }

    /// Whether the rule catches nothing but SYNs, which TCPMSS wants to know.
    fn only_syn(&self) -> bool {
        false
    }
}

/// A rule's use of a `recent` list.
pub(crate) struct RecentUse<'a> {
    pub name: &'a str,
    pub mask: u128,
    pub hitcount: u32,
}

/// What a target says.
pub(crate) enum Next {
    /// The next rule decides.
    Continue,
    /// The same, once this change is made.
    Edit(Edit),
    /// The walk is over.
    Final(Verdict),
}

/// A target that validation has made.
pub(crate) trait Target: fmt::Debug + Send + Sync {
    /// Acts on a packet that matched its rule.
    fn apply(&self, context: &mut Context<'_>) -> Next;

    /// Appends the options, each with a blank before it, as iptables-save prints them.
    fn save(&self, out: &mut String);

    /// Appends what `iptables -L` shows of it, a blank before each word. By default the options as
    /// they are saved.
    fn list(&self, out: &mut String, _style: Listing) {
        self.save(out);
    }

    /// Whether its presence makes the kernel track connections.
    fn uses_conntrack(&self) -> bool {
        false
    }

    /// Whether what it does depends on nothing but the packet's flow ([`crate::Trail`]) and leaves
    /// nothing behind but the packet's mark. Verdicts and changes of the packet end or leave the
    /// trail by themselves.
    fn flow_only(&self) -> bool {
        false
    }

    /// Called when the place of the rule is known: the hooks from which it can be reached, and
    /// whether the rule catches nothing but SYNs.
    fn check_rule(&self, _hooks: u8, _only_syn: bool) -> Result<(), &'static str> {
        Ok(())
    }
}

/// The options an extension was given, and the rule around it.
pub(crate) struct Given<'a> {
    pub family: Family,
    pub table: TableName,
    /// The rule's protocol, if `-p` names one without `!`.
    pub protocol: Option<u8>,
    pub extension: &'a ExtensionAst<'a>,
    /// The sets that rules may name.
    pub sets: &'a Sets,
    /// What is legal and still looks like a mistake.
    pub warnings: &'a RefCell<Vec<Problem>>,
}

/// What iptables says of extensions that were given nothing to do.
const NOTHING: &[(&str, &str)] = &[
    ("multiport", "multiport expection an option"),
    ("conntrack", "conntrack: At least one option is required"),
    ("hashlimit", "You have to specify --hashlimit"),
    ("recent", "recent: you must specify one of `--set', `--rcheck' `--update' or `--remove'"),
    ("iprange", "iprange match: You must specify `--src-range' or `--dst-range'"),
    ("ttl", "TTL match: You must specify one of `--ttl-eq', `--ttl-lt', `--ttl-gt"),
    ("string", "STRING match: You must specify `--string' or `--hex-string'"),
    ("dscp", "DSCP match: Parameter --dscp is required"),
    ("physdev", "PHYSDEV: no physdev option specified"),
    ("connlimit", "You must specify \"--connlimit-above\" or \"--connlimit-upto\"."),
    ("MARK", "MARK: One of the --set-xmark, --{and,or,xor,set}-mark options is required"),
    ("CONNMARK", "CONNMARK target: No operation specified"),
    ("TTL", "TTL: You must specify an action"),
    ("TOS", "TOS: An action is required"),
    ("DSCP", "DSCP target: Parameter --set-dscp is required"),
];

impl<'a> Given<'a> {
    /// The option of that canonical name.
    pub fn get(&self, name: &str) -> Option<&'a OptionAst<'a>> {
        self.extension.options.iter().find(|o| o.opt.names[0] == name)
    }

    /// Whether the option was given.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The value of the option and whether it was negated.
    pub fn value(&self, name: &str) -> Option<(&'a Word<'a>, bool)> {
        self.get(name).and_then(|o| o.values.first().map(|v| (v, o.inverted)))
    }

    /// The value of an option that must be there.
    pub fn required(&self, name: &str) -> Outcome<(&'a Word<'a>, bool)> {
        self.value(name).ok_or_else(|| {
            let words =
                format!("{}: option \"--{name}\" must be specified\n", self.extension.name.text);
            self.wrong(format!("--{name} must be given")).words(words)
        })
    }

    /// A problem with the extension as a whole.
    pub fn wrong(&self, message: impl AsRef<str>) -> Problem {
        let name = &self.extension.name;
        Problem::new(name.span.clone(), format!("{}: {}", name.text, message.as_ref()))
    }

    /// Tells of something that loads and won't do what it seems to.
    pub fn warn(&self, message: impl AsRef<str>) {
        self.warnings.borrow_mut().push(self.wrong(message));
    }

    /// Refuses two of these together.
    pub fn exclusive(&self, names: &[&str]) -> Outcome<()> {
        let mut found = names.iter().filter_map(|n| self.get(n));
        match (found.next(), found.next()) {
            (Some(a), Some(b)) => Err(Problem::new(
                b.span.clone(),
                format!("--{} can't be used together with --{}", b.opt.names[0], a.opt.names[0]),
            )
            .words(format!(
                "{}: option \"--{}\" cannot be used together with \"--{}\".\n",
                self.extension.name.text, a.opt.names[0], b.opt.names[0]
            ))),
            _ => Ok(()),
        }
    }

    /// The one of these that was given.
    pub fn one_of(&self, names: &[&str]) -> Outcome<&'a OptionAst<'a>> {
        self.exclusive(names)?;
        names
            .iter()
            .find_map(|n| self.get(n))
            .ok_or_else(|| self.nothing(format!("one of --{} must be given", names.join(", --"))))
    }

    /// Refuses an extension without any option.
    pub fn not_empty(&self) -> Outcome<()> {
        if self.extension.options.is_empty() {
            return Err(self.nothing("at least one option must be given"));
        }
        Ok(())
    }

    /// A problem with an extension that has nothing to do, in iptables' words where they are known:
    /// each of its extensions has its own.
    fn nothing(&self, message: impl AsRef<str>) -> Problem {
        let problem = self.wrong(message);
        let name = &*self.extension.name.text;
        match NOTHING.iter().find(|(of, _)| *of == name) {
            Some((_, words)) => problem.words(*words),
            None => problem,
        }
    }
}
