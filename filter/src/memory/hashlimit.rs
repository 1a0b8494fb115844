//! The tables of `hashlimit`: a bucket for each key.
//!
//! A table belongs to its name and family. The rule that made it settles the rate and the rest; later
//! rules of that name share both table and rate (htable_find_get), and only say what they match.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tidegate_packet::{Addr, Family, Instant};

/// How much, and for how long a bucket is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub pace: Pace,
    /// A bucket untouched for so long goes.
    pub expire: Duration,
    /// How often the kernel looks for such buckets.
    pub collect: Duration,
    /// No further keys than this.
    pub max: usize,
}

/// What a bucket allows.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// A packet costs `cost` nanoseconds, of which `cap` are kept.
    Packets { cost: u128, cap: u128 },
    /// A chunk of 16 bytes costs `cost` of the credits that a second gives; so many seconds' worth
    /// may be spent beyond the first.
    Bytes { cost: u64, burst: u32 },
    /// `--hashlimit-rate-match`: no more than `burst` in an interval, and none as long as the last
    /// interval's rate was above `rate` a second.
    Rate { rate: u64, burst: u64, interval: u64, bytes: bool },
}

/// The credits of a second in byte mode: the largest power of two that a jiffy of 4 ms may give in 32
/// bits, 250 times.
const CREDITS_PER_SECOND: u64 = 16_777_216 * 250;
const NANOS: u128 = 1_000_000_000;

/// A rule's use of a table.
pub(crate) struct Use<'a> {
    pub family: Family,
    pub name: &'a str,
    pub config: &'a Config,
}

/// What is asked about a packet.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Packet {
    pub key: Key,
    pub len: u32,
    pub now: Instant,
    /// Answer, but change nothing.
    pub dry: bool,
}

/// What packets have in common that share a bucket; what the mode leaves out is zero.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub src: Addr,
    pub dst: Addr,
    pub sport: u16,
    pub dport: u16,
}

/// All tables by family and name.
#[derive(Debug, Default)]
pub(super) struct Tables(HashMap<(Family, String), Table>);

#[derive(Debug)]
struct Table {
    config: Config,
    buckets: HashMap<Key, Bucket>,
    collected: Instant,
}

#[derive(Copy, Clone, Debug)]
struct Bucket {
    last: Instant,
    expires: Instant,
    /// Nanoseconds, credits, or what was counted in this interval.
    credit: u128,
    /// Seconds' worth left to spend at once, in byte mode.
    burst: u32,
    /// The last interval was too fast.
    hot: bool,
}

impl Tables {
    pub fn adopt<'a>(&mut self, uses: impl Iterator<Item = Use<'a>>) {
        let mut named = HashSet::new();
        for used in uses {
            let key = (used.family, used.name.to_owned());
            named.insert(key.clone());
            self.0.entry(key).or_insert_with(|| Table::new(used.config));
        }
        self.0.retain(|key, _| named.contains(key));
    }

    /// Whether the packet is within the limit; `None` if there is no room to tell.
    pub fn spend(&mut self, used: Use<'_>, packet: Packet) -> Option<bool> {
        let table = self
            .0
            .entry((used.family, used.name.to_owned()))
            .or_insert_with(|| Table::new(used.config));
        table.spend(packet)
    }
}

impl Table {
    fn new(config: &Config) -> Self {
        Self { config: config.clone(), buckets: HashMap::new(), collected: Instant::ZERO }
    }

    fn spend(&mut self, packet: Packet) -> Option<bool> {
        let Packet { key, len, now, dry } = packet;
        if now.saturating_since(self.collected) >= self.config.collect {
            self.buckets.retain(|_, bucket| bucket.expires > now);
            self.collected = now;
        }
        let config = &self.config;
        let mut bucket = match self.buckets.get(&key) {
            Some(bucket) => bucket.earn(config.pace, now),
            None if self.buckets.len() >= config.max => return None,
            None => Bucket::new(config.pace, now),
        };
        bucket.expires = now + config.expire;
        let within = bucket.spend(config.pace, len);
        if !dry {
            self.buckets.insert(key, bucket);
        }
        Some(within)
    }
}

impl Bucket {
    fn new(pace: Pace, now: Instant) -> Self {
        let (credit, burst) = match pace {
            Pace::Packets { cap, .. } => (cap, 0),
            Pace::Bytes { burst, .. } => (u128::from(CREDITS_PER_SECOND), burst),
            Pace::Rate { .. } => (0, 0),
        };
        Self { last: now, expires: now, credit, burst, hot: false }
    }

    /// The bucket after the time that has passed.
    fn earn(mut self, pace: Pace, now: Instant) -> Self {
        let passed = now.saturating_since(self.last).as_nanos();
        match pace {
            Pace::Packets { cap, .. } => self.credit = (self.credit + passed).min(cap),
            Pace::Bytes { .. } => {
                let full = u128::from(CREDITS_PER_SECOND);
                self.credit = (self.credit + passed * full / NANOS).min(full);
            }
            Pace::Rate { rate, interval, .. } => {
                let interval = u128::from(interval) * NANOS;
                if passed < interval {
                    return self;
                }
                self.hot = self.credit * NANOS > passed * u128::from(rate);
                self.credit = 0;
            }
        }
        self.last = self.last.max(now);
        self
    }

    fn spend(&mut self, pace: Pace, len: u32) -> bool {
        let cost = match pace {
            Pace::Packets { cost, .. } => cost,
            Pace::Bytes { cost, .. } => {
                let cost = (u64::from(len >> 4) + 1) * cost;
                let cost = cost.min(CREDITS_PER_SECOND);
                if self.credit < u128::from(cost) && self.burst > 0 {
                    self.burst -= 1;
                    self.credit = u128::from(CREDITS_PER_SECOND);
                }
                u128::from(cost)
            }
            Pace::Rate { burst, bytes, .. } => {
                self.credit += if bytes { u128::from(len) } else { 1 };
                return !self.hot && self.credit <= u128::from(burst);
            }
        };
        let within = self.credit >= cost;
        if within {
            self.credit -= cost;
        }
        within
    }
}
