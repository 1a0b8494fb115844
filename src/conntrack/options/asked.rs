//! What a command line that fits together asks for: ends, an expectation, a connection.

use super::{Command, nat_target};
use crate::conntrack::filter::Filter;
use crate::conntrack::{Entry, Expected, Side};
use std::net::IpAddr;
use tidegate_nat::{Status, Tuple};
use tidegate_packet::Addr;

impl Command {
    /// The ends that `-G` asks for, and whether they are the reply direction's.
    pub fn exact_side(&self) -> Option<(u8, Side, bool)> {
        let (_, number) = self.protocol?;
        let Filter { original, reply, .. } = &self.filter;
        let asked = original.src.is_some() && original.dst.is_some();
        let ends = if asked { original } else { reply };
        let dport = match (ends.icmp_type, ends.icmp_code) {
            (None, None) => ends.dport.unwrap_or(0),
            (kind, code) => u16::from_be_bytes([kind.unwrap_or(0), code.unwrap_or(0)]),
        };
        let side = Side {
            src: ends.src?.0,
            dst: ends.dst?.0,
            sport: ends.sport.unwrap_or(0),
            dport,
            counters: None,
            zone: ends.zone,
        };
        Some((number, side, !asked))
    }

    /// What `-I expect` is to have expected.
    pub fn expected(&self) -> Option<Expected> {
        let (protocol, master, _) = self.exact_side()?;
        let side = |ends: [Option<IpAddr>; 2], ports: [Option<u16>; 2]| {
            let [sport, dport] = ports.map(|port| port.unwrap_or(0));
            Some(Side { src: ends[0]?, dst: ends[1]?, sport, dport, counters: None, zone: None })
        };
        Some(Expected {
            timeout: self.timeout.unwrap_or(0),
            protocol,
            tuple: side(self.tuple, self.ports[1])?,
            mask: side(self.masks, self.ports[0])?,
            master,
            master_protocol: protocol,
            permanent: false,
            inactive: false,
            class: 0,
            helper: String::new(),
        })
    }

    /// The connection that `-I` and `-A` are to make. `None`: the ends can't be turned around.
    pub fn entry(&self) -> Option<Entry> {
        let (number, side, reversed) = self.exact_side()?;
        let [src, dst] = [side.src, side.dst].map(Addr::from);
        let tuple = Tuple { src, dst, sport: side.sport, dport: side.dport, protocol: number };
        let inverse = tuple.inverse()?;
        let other = Side {
            src: inverse.src.to_ip(),
            dst: inverse.dst.to_ip(),
            sport: inverse.sport,
            dport: inverse.dport,
            counters: None,
            zone: None,
        };
        let (original, mut reply) = if reversed { (other, side) } else { (side, other) };
        let ends = &self.filter.reply;
        if !reversed {
            if let (Some((src, _)), Some((dst, _))) = (ends.src, ends.dst) {
                (reply.src, reply.dst) = (src, dst);
            }
            reply.sport = ends.sport.unwrap_or(reply.sport);
            reply.dport = ends.dport.unwrap_or(reply.dport);
        }
        nat_target(self.filter.src_nat, &mut reply.dst, &mut reply.dport);
        nat_target(self.filter.dst_nat, &mut reply.src, &mut reply.sport);
        Some(Entry {
            id: 0,
            protocol: number,
            original,
            reply,
            status: self.status & !Status::CONFIRMED.bits(),
            timeout: self.timeout,
            state: self.filter.state.clone(),
            tags: None,
            mark: self.mark.map(|(value, _)| value),
            zone: self.filter.zone,
            helper: None,
            labels: self.change.add_labels.clone(),
            start: None,
            stop: None,
            uses: None,
        })
    }
}
