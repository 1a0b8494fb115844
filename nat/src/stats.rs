//! What `conntrack -S` counts, counted where netfilter counts it.

use crate::tracked::InvalidReason;

/// Counters of a table, as `struct ip_conntrack_stat` has them.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reply tuples that a translation wanted and somebody else had.
    pub found: u64,
    /// Packets that belong to no connection and can't start one.
    pub invalid: u64,
    /// Connections that were put into the table by hand. What packets start isn't counted.
    pub insert: u64,
    /// New connections whose tuple was taken when they were about to enter the table.
    pub insert_failed: u64,
    /// Packets dropped because their connection couldn't enter the table.
    pub drop: u64,
    /// Connections that had to make room for others.
    pub early_drop: u64,
    /// ICMP messages that are damaged, or errors about no connection.
    pub error: u64,
    /// Connections that began as a helper had announced them.
    pub expect_new: u64,
    /// Expectations that were made.
    pub expect_create: u64,
    /// Expectations that are gone, fulfilled or not.
    pub expect_delete: u64,
    /// New connections that found the table full and nothing to throw out.
    pub table_full: u64,
}

impl Stats {
    /// Adds another table's.
    pub fn add(&mut self, other: &Self) {
        let Self {
            found,
            invalid,
            insert,
            insert_failed,
            drop,
            early_drop,
            error,
            expect_new,
            expect_create,
            expect_delete,
            table_full,
        } = *other;
        self.found += found;
        self.invalid += invalid;
        self.insert += insert;
        self.insert_failed += insert_failed;
        self.drop += drop;
        self.early_drop += early_drop;
        self.error += error;
        self.expect_new += expect_new;
        self.expect_create += expect_create;
        self.expect_delete += expect_delete;
        self.table_full += table_full;
    }

    /// Counts an INVALID packet. What is wrong with an ICMP message by itself or with the packet it
    /// quotes is an `error` (`nf_conntrack_handle_icmp`), everything else is `invalid`.
    pub(crate) fn count_invalid(&mut self, reason: InvalidReason, icmp: bool) {
        if icmp && reason != InvalidReason::IcmpNew {
            self.error += 1;
        } else {
            self.invalid += 1;
        }
    }
}
