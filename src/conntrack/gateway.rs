//! The gateway's side: the table walked in slices, connections changed, made and forgotten.

use super::entry::{Entry, Moment, Side, bits};
use super::events::{About, Hub, Subscription};
use super::expected::Expected;
use super::filter::Filter;
use super::wire::{Action, Ask, Change, Fault, Tell, Which};
use crate::engine::Lent;
use crate::gateway::Gateway;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tidegate_nat::{
    ConnId, Connection, Conntrack, Create, Direction, Expectation, Refused, Stats, TcpState, Tuple,
    Update,
};
use tidegate_packet::Addr;

/// Places that are looked at while the engine is locked: a few hundred microseconds at most.
const SLICE: usize = 2048;
/// Connections that are changed or removed under one lock.
const AT_ONCE: usize = 256;
/// Entries after which an answer is complete.
const PAGE: usize = 1024;
/// Slices after which it is, too, though little was found.
const SLICES: usize = 64;
/// A cursor is the number of a slice with its shard's number in front.
const SHARD_AT: u32 = 24;

/// The first place of the slice that a cursor names.
const fn place(cursor: u32) -> usize {
    (cursor & ((1 << SHARD_AT) - 1)) as usize * SLICE
}

/// How long a listener waits for events before it is answered with none.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the client that asks.
#[derive(Debug, Default)]
pub struct Peer {
    /// Its process.
    pub pid: Option<u32>,
    /// What it listens to.
    pub listening: Option<Subscription>,
}

/// Answers a client.
pub fn answer(
    gateway: &Gateway,
    hub: &Arc<Hub>,
    peer: &mut Peer,
    ask: Ask,
    moment: Moment,
) -> Tell {
    if !matches!(ask, Ask::Next | Ask::Walk { cursor: 1.., .. }) {
        gateway.finish_sweep(moment.now, moment.unix_nanos);
    }
    match ask {
        Ask::Walk { filter, action, cursor } => {
            walk(gateway, peer.pid, &filter, &action, cursor, moment)
        }
        Ask::Get { protocol, side, reply } => {
            let zones = [side.zone.unwrap_or(0); 2];
            gateway.with_owner(&tuple(protocol, &side), zones, |engine| {
                get(engine, protocol, &side, reply, moment)
            })
        }
        Ask::Create { entry, exclusive } => {
            let own = |side: &Side| side.zone.or(entry.zone).unwrap_or(0);
            let zones = [own(&entry.original), own(&entry.reply)];
            let original = tuple(entry.protocol, &entry.original);
            gateway.with_owner(&original, zones, |engine| {
                authored(engine, peer.pid, moment, |engine| {
                    create(engine, &entry, exclusive, moment)
                })
            })
        }
        Ask::Flush { family } => {
            let filter = Filter { family, ..Filter::default() };
            let mut cursor = 0;
            while let Tell::Page { next: Some(next), .. } =
                walk(gateway, peer.pid, &filter, &Action::Delete, cursor, moment)
            {
                cursor = next;
            }
            Tell::Done
        }
        Ask::Count => Tell::Count(gateway.connections() as u64),
        Ask::Stats { expectations } => Tell::Stats(stats(&gateway.stats(), expectations)),
        Ask::Expected { which, delete } => {
            let found = gateway.each(|engine| expected(engine, &which, delete, moment));
            Tell::Expected(found.into_iter().flatten().collect())
        }
        Ask::Expect { expected } => {
            let master = tuple(expected.master_protocol, &expected.master);
            gateway.with_owner(&master, [0; 2], |engine| {
                authored(engine, peer.pid, moment, |engine| expect(engine, &expected, moment))
            })
        }
        Ask::Listen { filter, what, queue, expectations } => {
            let about = if expectations { About::Expectations } else { About::Connections };
            peer.listening = hub.subscribe(about, *filter, what, queue);
            if peer.listening.is_none() {
                return Tell::Fault(Fault::Busy);
            }
            gateway.change(|engine| engine.listen_to_connections(true));
            Tell::Done
        }
        Ask::Next => match &peer.listening {
            Some(subscription) => {
                let (events, expected, lost) = subscription.next(PATIENCE);
                Tell::Happened { events, expected, lost }
            }
            None => Tell::Fault(Fault::Invalid),
        },
    }
}

/// All connections, for who has the engine to itself.
pub fn entries(engine: &mut Lent<'_>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let moment = engine.moment();
    let table = engine.conntrack();
    table.page(0, table.places(), moment.now, |id, conn| entries.push(Entry::of(id, conn, moment)));
    entries
}

fn authored<R>(
    engine: &mut Lent<'_>,
    author: Option<u32>,
    moment: Moment,
    work: impl FnOnce(&mut Lent<'_>) -> R,
) -> R {
    engine.conntrack_mut().set_author(author);
    engine.conntrack_mut().set_event_time(moment.now);
    let done = work(engine);
    engine.conntrack_mut().set_author(None);
    done
}

fn walk(
    gateway: &Gateway,
    author: Option<u32>,
    filter: &Filter,
    action: &Action,
    cursor: u32,
    moment: Moment,
) -> Tell {
    let (mut shard, mut first) = ((cursor >> SHARD_AT) as usize, place(cursor));
    let mut found = Vec::new();
    let mut copies: Vec<(ConnId, Connection)> = Vec::new();
    for _ in 0..SLICES {
        let places = gateway.with(shard, |engine| {
            let table = engine.conntrack();
            table.page(first, SLICE, moment.now, |id, conn| copies.push((id, conn.clone())));
            table.places()
        });
        gateway.give_way();
        let meant = copies.drain(..).filter_map(|(id, conn)| {
            let entry = Entry::of(id, &conn, moment);
            filter.fits(&entry).then_some((id, entry))
        });
        let meant: Vec<(ConnId, Entry)> = meant.collect();
        match act((gateway, shard), author, meant, action, moment) {
            Ok(done) => found.extend(done),
            Err(fault) => return Tell::Fault(fault),
        }
        first += SLICE;
        if first >= places {
            (shard, first) = (shard + 1, 0);
        }
        if shard >= gateway.shards() {
            return Tell::Page { entries: found, next: None, now: moment.unix_nanos };
        }
        if found.len() >= PAGE {
            break;
        }
    }
    let next = u32::try_from((shard << SHARD_AT) | (first / SLICE)).ok();
    Tell::Page { entries: found, next, now: moment.unix_nanos }
}

/// Does it to those that are still there, and gives those that it was done to.
fn act(
    (gateway, shard): (&Gateway, usize),
    author: Option<u32>,
    meant: Vec<(ConnId, Entry)>,
    action: &Action,
    moment: Moment,
) -> Result<Vec<Entry>, Fault> {
    if *action == Action::List {
        return Ok(meant.into_iter().map(|(_, entry)| entry).collect());
    }
    let mut done = Vec::new();
    let mut meant = meant.into_iter().peekable();
    while meant.peek().is_some() {
        let some = meant.by_ref().take(AT_ONCE);
        gateway.with(shard, |engine| {
            authored(engine, author, moment, |engine| {
                act_on(engine.conntrack_mut(), some, action, moment, &mut done)
            })
        })?;
        gateway.give_way();
    }
    Ok(done)
}

/// Does it to some of them, and adds those that it was done to.
fn act_on(
    table: &mut Conntrack,
    meant: impl Iterator<Item = (ConnId, Entry)>,
    action: &Action,
    moment: Moment,
    done: &mut Vec<Entry>,
) -> Result<(), Fault> {
    for (id, entry) in meant {
        match action {
            Action::List => done.push(entry),
            Action::Zero => {
                table.zero_counters(id);
                done.push(entry);
            }
            Action::Delete if table.delete(id) => done.push(entry),
            Action::Delete => {}
            Action::Update(change) => {
                let Some(update) = update_of(change, &entry)? else { continue };
                if table.update(id, &update, moment.now).is_ok()
                    && let Some(conn) = table.get(id)
                {
                    done.push(Entry { uses: Some(2), ..Entry::of(id, conn, moment) });
                }
            }
        }
    }
    Ok(())
}

/// What has to be done to a connection for a change; nothing if it is so already.
fn update_of(change: &Change, entry: &Entry) -> Result<Option<Update>, Fault> {
    let Change { mark, timeout, status, state, add_labels, del_labels } = change;
    let old = entry.mark.unwrap_or(0);
    let same = mark.is_none_or(|(mask, value)| (old & !mask) ^ value == old)
        && timeout.is_none()
        && status.is_none_or(|bits| entry.status & bits == bits)
        && state.as_ref().is_none_or(|state| entry.state.as_ref() == Some(state))
        && add_labels.iter().all(|label| entry.labels.contains(label))
        && !del_labels.iter().any(|label| entry.labels.contains(label));
    if same {
        return Ok(None);
    }
    let state = match state {
        Some(name) => Some(TcpState::from_name(name).ok_or(Fault::Invalid)?),
        None => None,
    };
    let timeout = timeout.map(Duration::from_secs);
    let (add_labels, del_labels) = (bits(add_labels), bits(del_labels));
    Ok(Some(Update { mark: *mark, timeout, status: *status, state, add_labels, del_labels }))
}

fn tuple(protocol: u8, side: &Side) -> Tuple {
    let [src, dst] = [side.src, side.dst].map(Addr::from);
    Tuple { src, dst, sport: side.sport, dport: side.dport, protocol }
}

fn get(engine: &Lent<'_>, protocol: u8, side: &Side, reply: bool, moment: Moment) -> Tell {
    let table = engine.conntrack();
    let direction = if reply { Direction::Reply } else { Direction::Original };
    let zones = [side.zone.unwrap_or(0); 2];
    let id = table.find_exactly(&tuple(protocol, side), zones, direction, moment.now);
    match id.and_then(|id| Some((id, table.get(id)?))) {
        Some((id, conn)) => {
            let entry = Entry { uses: Some(2), ..Entry::of(id, conn, moment) };
            Tell::Page { entries: vec![entry], next: None, now: moment.unix_nanos }
        }
        None => Tell::Fault(Fault::Absent),
    }
}

fn create(engine: &mut Lent<'_>, entry: &Entry, exclusive: bool, moment: Moment) -> Tell {
    let table = engine.conntrack_mut();
    let original = tuple(entry.protocol, &entry.original);
    let state = match entry.state.as_deref().map(TcpState::from_name) {
        Some(None) => return Tell::Fault(Fault::Invalid),
        Some(state) => state,
        None => None,
    };
    let timeout = Duration::from_secs(entry.timeout.unwrap_or(0));
    let (status, mark) = (entry.status, entry.mark.unwrap_or(0));
    let own = |side: &Side| side.zone.or(entry.zone).unwrap_or(0);
    let zones = [own(&entry.original), own(&entry.reply)];
    let labels = bits(&entry.labels);
    let there = table.find_exactly(&original, zones, Direction::Original, moment.now);
    if let (Some(id), false) = (there, exclusive) {
        let mark = entry.mark.map(|mark| (u32::MAX, mark));
        let (timeout, status) = (Some(timeout), Some(status));
        let update = Update { mark, timeout, status, state, add_labels: labels, del_labels: 0 };
        return match table.update(id, &update, moment.now) {
            Ok(()) => Tell::Done,
            Err(why) => Tell::Fault(why.into()),
        };
    }
    let reply = tuple(entry.protocol, &entry.reply);
    let create = Create { original, reply, timeout, status, mark, state, zones, labels };
    match table.create(&create, moment.now) {
        Ok(_) => Tell::Done,
        Err(why) => Tell::Fault(why.into()),
    }
}

fn expected(engine: &mut Lent<'_>, which: &Which, delete: bool, moment: Moment) -> Vec<Expected> {
    let meant = |expectation: &Expectation| match which {
        Which::All => true,
        Which::Family(family) => expectation.tuple.src.is_v4() == (*family == 4),
        // As the kernel looks for it: one that a connection like this would fulfil.
        Which::Tuple(protocol, side) => {
            expectation.covers(&tuple(*protocol, side), [side.zone.unwrap_or(0); 2])
        }
    };
    let table = engine.conntrack_mut();
    table.set_event_time(moment.now);
    let found = table.expectations().filter(|e| meant(e) && e.deadline > moment.now);
    let found: Vec<Expected> = found.filter_map(|e| Expected::of(table, e, moment)).collect();
    if delete {
        // Those whose masters are in other tables are for those.
        table.unexpect_where(|table, e| meant(e) && table.get(e.master).is_some());
    }
    found
}

/// Makes an expectation. The kernel knows masks of any bits; here a source counts or it doesn't.
fn expect(engine: &mut Lent<'_>, expected: &Expected, moment: Moment) -> Tell {
    let Expected { timeout, protocol, tuple: first, mask, master, master_protocol, .. } = expected;
    let any_source = match (mask.src, mask.sport) {
        (src, 0 | u16::MAX) if src.is_unspecified() => true,
        (src, 0 | u16::MAX) if is_all_ones(src) => false,
        _ => return Tell::Fault(Fault::Unsupported),
    };
    let table = engine.conntrack_mut();
    let master = tuple(*master_protocol, master);
    let found = table.find_exactly(&master, [0; 2], Direction::Original, moment.now);
    let Some(master) = found else { return Tell::Fault(Fault::Absent) };
    let (any, lasts) = ([any_source, mask.sport == 0], Duration::from_secs(*timeout));
    match table.expect_by_hand(master, tuple(*protocol, first), any, lasts, moment.now) {
        Ok(()) => Tell::Done,
        Err(why) => Tell::Fault(why.into()),
    }
}

fn is_all_ones(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.to_bits() == u32::MAX,
        IpAddr::V6(addr) => addr.to_bits() == u128::MAX,
    }
}

impl From<Refused> for Fault {
    fn from(why: Refused) -> Self {
        match why {
            Refused::Absent => Self::Absent,
            Refused::Exists => Self::Exists,
            Refused::Full => Self::Full,
            Refused::Invalid => Self::Invalid,
            Refused::Unsupported => Self::Unsupported,
            Refused::Busy => Self::Busy,
        }
    }
}

/// The counters that the kernel's message has, in its order. The last three count what can't
/// happen here.
fn stats(s: &Stats, expectations: bool) -> Vec<(String, u64)> {
    let named = |(name, value): &(&str, u64)| ((*name).to_owned(), *value);
    if expectations {
        let rows = [
            ("expect_new", s.expect_new),
            ("expect_create", s.expect_create),
            ("expect_delete", s.expect_delete),
        ];
        return rows.iter().map(named).collect();
    }
    let rows = [
        ("found", s.found),
        ("invalid", s.invalid),
        ("insert", s.insert),
        ("insert_failed", s.insert_failed),
        ("drop", s.drop),
        ("early_drop", s.early_drop),
        ("error", s.error),
        ("search_restart", 0),
        ("clash_resolve", 0),
        ("chaintoolong", 0),
    ];
    rows.iter().map(named).collect()
}
