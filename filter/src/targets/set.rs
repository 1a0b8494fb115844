//! `SET`: puts what a packet has into a set, takes it out, or gives the packet what a set keeps.

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag, value};
use crate::matches::set::{marked, set_and_sides};
use crate::query::{Hook, TableName};
use crate::sets::{MAX_TIMEOUT, Question, Reference};
use crate::values::{list_saved, save_name, save_option};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[
        value(&["add-set"]).pair(),
        value(&["del-set"]).pair(),
        value(&["map-set"]).pair(),
        value(&["timeout"]),
        flag(&["exist"]),
        flag(&["map-mark"]),
        flag(&["map-prio"]),
        flag(&["map-queue"]),
    ],
    ..Spec::new("SET", build)
};

/// A set, and what of a packet to look up in it.
type Asked = Option<(Reference, Question)>;

#[derive(Debug)]
struct Change {
    add: Asked,
    delete: Asked,
    map: Asked,
    timeout: Option<u32>,
    exist: bool,
    map_mark: bool,
    map_prio: bool,
    map_queue: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let asked = |name: &str| -> Outcome<Asked> {
        let Some(option) = given.get(name) else { return Ok(None) };
        let (set, sides) = set_and_sides(given, &option.values)?;
        Ok(Some((set, Question::plain(given.family, sides))))
    };
    let (add, delete, mut map) = (asked("add-set")?, asked("del-set")?, asked("map-set")?);
    for (set, _) in [&add, &delete].into_iter().flatten() {
        set.written_by_rules();
    }
    if let Some((_, question)) = &mut map {
        // A look-up as any other: it counts.
        (question.count, question.count_members) = (true, true);
    }
    let [map_mark, map_prio, map_queue] =
        ["map-mark", "map-prio", "map-queue"].map(|n| given.has(n));
    if add.is_none() && delete.is_none() && map.is_none() {
        return Err(given
            .wrong("--add-set, --del-set or --map-set must be given")
            .words("You must specify either `--add-set' or `--del-set' or `--map-set'"));
    }
    let (timeout, exist) = (given.value("timeout"), given.has("exist"));
    if add.is_none() && (timeout.is_some() || exist) {
        let name = if exist { "Flag `--exist'" } else { "Option `--timeout'" };
        return Err(given
            .wrong("--timeout and --exist go only with --add-set")
            .words(format!("{name} can be used with `--add-set' only")));
    }
    let timeout = match timeout {
        Some((word, _)) => Some(word.number(0..=u64::from(u32::MAX))? as u32),
        None => None,
    };
    let maps = map_mark || map_prio || map_queue;
    if maps != map.is_some() {
        let words = match maps {
            true => "These flags can be used with `--map-set' only",
            false => "You must specify flags `--map-mark' or '--map-prio` or `--map-queue'",
        };
        let message = "--map-set goes with --map-mark, --map-prio or --map-queue";
        return Err(given.wrong(message).words(words));
    }
    if maps && given.table != TableName::Mangle {
        return Err(given
            .wrong("--map-set can be used only in the table mangle")
            .refused(crate::diagnostic::Refusal::Invalid));
    }
    if map_prio || map_queue {
        given
            .warn("the gateway has no queueing classes: --map-prio and --map-queue change nothing");
    }
    Ok(Box::new(Change { add, delete, map, timeout, exist, map_mark, map_prio, map_queue }))
}

impl Target for Change {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        let query = marked(context);
        if !context.dry {
            if let Some((set, question)) = &self.add {
                // Longer doesn't fit into the kernel's clock.
                let timeout = self.timeout.map(|seconds| seconds.min(MAX_TIMEOUT as u32));
                set.add_packet(&query, question, timeout, self.exist);
            }
            if let Some((set, question)) = &self.delete {
                set.delete_packet(&query, question);
            }
        }
        if let Some((set, question)) = &self.map
            && let Some(info) = set.skb_info(&query, question, context.dry)
            && self.map_mark
        {
            context.mark = context.mark & !info.mask ^ info.mark;
            context.effects.set_mark(context.mark);
        }
        Next::Continue
    }

    fn check_rule(&self, hooks: u8, _only_syn: bool) -> Result<(), &'static str> {
        let late = [Hook::Forward, Hook::Output, Hook::Postrouting].map(Hook::bit);
        let allowed = late.iter().fold(0, |all, bit| all | bit);
        match (self.map_prio || self.map_queue) && hooks & !allowed != 0 {
            true => Err(
                "--map-prio and --map-queue can be used only in FORWARD, OUTPUT and POSTROUTING",
            ),
            false => Ok(()),
        }
    }

    fn list(&self, out: &mut String, _style: Listing) {
        list_saved(out, |out| self.save(out));
    }

    fn save(&self, out: &mut String) {
        let save_set = |out: &mut String, name: &str, asked: &Asked| {
            if let Some((set, question)) = asked {
                let sides = question.sides.text();
                save_option(out, name, false, format_args!("{} {sides}", set.name));
            }
        };
        save_set(out, "add-set", &self.add);
        if self.exist {
            save_name(out, "exist", false);
        }
        if let Some(timeout) = self.timeout {
            save_option(out, "timeout", false, timeout);
        }
        save_set(out, "del-set", &self.delete);
        save_set(out, "map-set", &self.map);
        for (given, name) in [
            (self.map_mark, "map-mark"),
            (self.map_prio, "map-prio"),
            (self.map_queue, "map-queue"),
        ] {
            if given {
                save_name(out, name, false);
            }
        }
    }
}
