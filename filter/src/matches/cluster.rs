//! `-m cluster`: whether this node of several is the one to handle a connection. Its original source
//! is hashed as the kernel does it, so that kernels and this program can share a cluster.

use std::fmt::Write as _;

use tidegate_packet::Addr;
use tidegate_packet::jhash::{jhash2, scale};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::{bang, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["cluster-total-nodes"]),
        value(&["cluster-local-node"]).inverts(),
        value(&["cluster-local-nodemask"]).inverts(),
        value(&["cluster-hash-seed"]),
    ],
    ..Spec::new("cluster", build)
};

/// `XT_CLUSTER_NODES_MAX`.
const MAX_NODES: u64 = 32;

#[derive(Debug)]
struct Cluster {
    nodes: u32,
    /// A bit for each node that this one stands for.
    mask: u32,
    inverted: bool,
    seed: u32,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, _) = given.required("cluster-total-nodes")?;
    let nodes = word.number(1..=MAX_NODES)?;
    let (seed, _) = given.required("cluster-hash-seed")?;
    let option = given.one_of(&["cluster-local-node", "cluster-local-nodemask"])?;
    let [word] = option.values.as_slice() else {
        return Err(given.wrong("a value is missing"));
    };
    let mask = match option.opt.names[0] {
        "cluster-local-node" => 1 << (word.number(1..=nodes)? - 1),
        // iptables takes no mask above 32, as if it were a node too, and can't load what it saves.
        _ => word.number(1..=(1 << nodes) - 1)? as u32,
    };
    Ok(Box::new(Cluster {
        nodes: nodes as u32,
        mask,
        inverted: option.inverted,
        seed: seed.number(0..=u64::from(u32::MAX))? as u32,
    }))
}

impl Cluster {
    /// The kernel hashes addresses as they lie in memory, here as on a little-endian machine, and of an
    /// IPv6 address only the first 32 bits (its count of words is divided by their size).
    fn node(&self, source: Addr) -> u32 {
        let octets = source.octets();
        let word = match source.is_v4() {
            true => source.v4_bytes(),
            false => [octets[0], octets[1], octets[2], octets[3]],
        };
        let hash = jhash2(&[u32::from_le_bytes(word)], self.seed);
        scale(hash, self.nodes)
    }
}

impl Match for Cluster {
    /// xt_cluster: without a connection it doesn't match, negated or not.
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(connection) = context.query.connection else { return false };
        (self.mask >> self.node(connection.original.src) & 1 != 0) != self.inverted
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _: Listing) {
        let Self { nodes, mask, inverted, seed } = self;
        let _ = write!(
            out,
            " cluster {}node_mask={mask:#010x} total_nodes={nodes} hash_seed={seed:#010x}",
            bang(*inverted)
        );
    }

    fn save(&self, out: &mut String) {
        let Self { nodes, mask, inverted, seed } = self;
        save_option(out, "cluster-local-nodemask", *inverted, format_args!("{mask:#010x}"));
        save_option(out, "cluster-total-nodes", false, nodes);
        save_option(out, "cluster-hash-seed", false, format_args!("{seed:#010x}"));
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
