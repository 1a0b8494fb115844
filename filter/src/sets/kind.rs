//! The kinds of set, in one table.

use tidegate_packet::Family;

/// What a part of an element is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Ip,
    Net,
    Port,
    Mark,
    Mac,
    Iface,
    Set,
}

/// How a set keeps its elements.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Hash,
    Bitmap,
    List,
}

/// A kind of set.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// `method:part,part`.
    pub name: &'static str,
    /// What ipset before version 5 called it.
    pub aliases: &'static [&'static str],
    pub method: Method,
    /// One a dimension.
    pub parts: &'static [Part],
    /// The revision that `ipset list` shows: what the kernel's module can do.
    pub revision: u8,
    /// Addresses can be cut by a netmask or bitmask, which is shown there among the options.
    pub mask: Option<MaskPlace>,
}

/// Where a listing has the mask of a set.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum MaskPlace {
    /// Behind `maxelem` or `range`.
    Early,
    /// At the end.
    Late,
}

use Method::{Bitmap, Hash, List};
use Part::{Iface, Ip, Mac, Mark, Net, Port, Set};

const fn kind(name: &'static str, parts: &'static [Part], revision: u8) -> Kind {
    Kind { name, aliases: &[], method: Hash, parts, revision, mask: None }
}

/// All kinds. A set points into this table, so kinds are compared by their place.
pub(crate) static KINDS: [Kind; 16] = [
    Kind { aliases: &["iphash"], mask: Some(MaskPlace::Early), ..kind("hash:ip", &[Ip], 6) },
    Kind { aliases: &["nethash"], ..kind("hash:net", &[Net], 7) },
    Kind {
        aliases: &["ipporthash"],
        mask: Some(MaskPlace::Late),
        ..kind("hash:ip,port", &[Ip, Port], 7)
    },
    kind("hash:net,port", &[Net, Port], 8),
    Kind { aliases: &["ipportiphash"], ..kind("hash:ip,port,ip", &[Ip, Port, Ip], 6) },
    Kind { aliases: &["ipportnethash"], ..kind("hash:ip,port,net", &[Ip, Port, Net], 8) },
    Kind { mask: Some(MaskPlace::Late), ..kind("hash:net,net", &[Net, Net], 4) },
    kind("hash:net,port,net", &[Net, Port, Net], 3),
    kind("hash:net,iface", &[Net, Iface], 8),
    kind("hash:ip,mark", &[Ip, Mark], 3),
    kind("hash:mac", &[Mac], 1),
    kind("hash:ip,mac", &[Ip, Mac], 1),
    Kind {
        aliases: &["ipmap"],
        method: Bitmap,
        mask: Some(MaskPlace::Early),
        ..kind("bitmap:ip", &[Ip], 3)
    },
    Kind { aliases: &["macipmap"], method: Bitmap, ..kind("bitmap:ip,mac", &[Ip, Mac], 3) },
    Kind { aliases: &["portmap"], method: Bitmap, ..kind("bitmap:port", &[Port], 3) },
    Kind { aliases: &["setlist"], method: List, ..kind("list:set", &[Set], 3) },
];

impl Kind {
    /// The kind of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name || kind.aliases.contains(&name))
    }

    /// How many parts an element has.
    pub fn dimensions(&self) -> usize {
        self.parts.len()
    }

    pub fn is_hash(&self) -> bool {
        self.method == Hash
    }

    pub fn is_list(&self) -> bool {
        self.method == List
    }

    pub fn is_bitmap(&self) -> bool {
        self.method == Bitmap
    }

    pub fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Whether elements may be networks, and so exceptions from others (`nomatch`).
    pub fn has_networks(&self) -> bool {
        self.has(Net)
    }

    /// Whether the set has a family; others take packets of both.
    pub fn has_family(&self) -> bool {
        self.is_hash() && !matches!(self.parts, [Mac]) || self.is_bitmap() && self.has(Ip)
    }

    /// Whether `family` may be given: bitmaps are IPv4's, and the rest has none.
    pub fn chooses_family(&self) -> bool {
        self.is_hash() && self.has_family()
    }

    /// The family as ipset's messages name it.
    pub fn family_name(&self, family: Family) -> &'static str {
        match (self.has_family(), family) {
            (false, _) => "unspec",
            (true, Family::V4) => "inet",
            (true, Family::V6) => "inet6",
        }
    }
}
