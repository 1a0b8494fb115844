//! Keeps the kernel's hands off what packet sockets have taken.
//!
//! A packet socket gets a copy; the kernel goes on to handle the original, which costs a third of
//! the throughput and would answer in the gateway's place. A BPF program at tc ingress, behind the
//! sockets' tap and before everything else, drops it there (or forwards it, where that was decided
//! at the tap: `bypass`). It is attached
//! by TCX (Linux 6.6 and later), which ends with the process, or else as a filter on a `clsact`
//! queue discipline, which dropping the [`Hold`] removes and which the next [`hold`] replaces
//! after a crash.

use super::bpf::{self, Instruction, ProgramKind};
use crate::link::netlink::Netlink;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// While it lives, the kernel drops what arrives on the interface (after packet sockets had it).
#[derive(Debug)]
pub struct Hold {
    /// TCX: closing it detaches.
    _link: Option<OwnedFd>,
    filter: Option<Filter>,
}

/// Why the kernel can't be kept from handling the packets too.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// BPF programs may not be loaded: inside a user namespace, or a kernel without them.
    #[error("the kernel lets us load no BPF program: {0}")]
    NoBpf(#[source] io::Error),
    /// Neither TCX nor `clsact` took the program.
    #[error("neither TCX ({tcx}) nor a clsact filter ({filter}) can be attached")]
    NoAttachment {
        /// What TCX said.
        tcx: io::Error,
        /// What the filter said.
        #[source]
        filter: io::Error,
    },
}

/// How to attach the program.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// TCX where the kernel has it, else a `clsact` filter.
    Best,
    /// A `clsact` filter at once, as on kernels before 6.6.
    Clsact,
}

/// Attaches a program that drops what arrives on an interface of the calling thread's namespace:
/// `forward`, which forwards some of it ([`Bypass::program`](super::bypass::Bypass::program)), or else
/// one that drops all of it.
pub fn hold(
    index: u32,
    method: Method,
    forward: Option<BorrowedFd<'_>>,
) -> Result<Hold, Unavailable> {
    let drop_all;
    let program = match forward {
        Some(forward) => forward,
        None => {
            drop_all = bpf::load(ProgramKind::Classifier, "tidegate_drop", &DROP_ALL)
                .map_err(Unavailable::NoBpf)?;
            drop_all.as_fd()
        }
    };
    let tcx = match method {
        Method::Best => match bpf::attach_tcx(program, index) {
            Ok(link) => return Ok(Hold { _link: Some(link), filter: None }),
            Err(error) => error,
        },
        Method::Clsact => io::ErrorKind::Unsupported.into(),
    };
    match Filter::attach(program, index) {
        Ok(filter) => Ok(Hold { _link: None, filter: Some(filter) }),
        Err(filter) => Err(Unavailable::NoAttachment { tcx, filter }),
    }
}

impl Hold {
    /// What holds: `tcx` or `clsact`.
    pub fn kind(&self) -> &'static str {
        if self.filter.is_some() { "clsact" } else { "tcx" }
    }
}

/// `r0 = TC_ACT_SHOT` and `exit`.
const DROP_ALL: [Instruction; 2] = [
    Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 2 },
    Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
];

/// The program as a filter of a `clsact` queue discipline.
#[derive(Debug)]
struct Filter {
    netlink: Netlink,
    index: u32,
    /// The queue discipline wasn't there before.
    made_discipline: bool,
}

/// The filter's place: before all others.
const FILTER_PRIORITY: u32 = 1;
const FILTER_HANDLE: u32 = 0x7464;

impl Filter {
    fn attach(program: BorrowedFd<'_>, index: u32) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let discipline = RouteNetlinkMessage::NewQueueDiscipline(discipline(index));
        let made_discipline = match netlink.request(discipline, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        let mut this = Self { netlink, index, made_discipline };
        // Left by a crash: ours by its handle. There may be none.
        let _ = this.remove_filter();
        let mut message = filter(index);
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
            TcOption::Bpf(TcFilterBpfOption::ProgName("tidegate_drop".to_owned())),
            // The program's result is the verdict.
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        let request = RouteNetlinkMessage::NewTrafficFilter(message);
        this.netlink.request(request, NLM_F_CREATE | NLM_F_EXCL)?;
        Ok(this)
    }

    fn remove_filter(&mut self) -> io::Result<()> {
        self.netlink.request(RouteNetlinkMessage::DelTrafficFilter(filter(self.index)), 0)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // The interface may be gone, and the filters with it.
        let _ = self.remove_filter();
        if self.made_discipline {
            let discipline = RouteNetlinkMessage::DelQueueDiscipline(discipline(self.index));
            let _ = self.netlink.request(discipline, 0);
        }
    }
}

fn discipline(index: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = TcHeader {
        index: index as i32,
        handle: TcHandle { major: u16::MAX, minor: 0 },
        parent: TcHandle::CLSACT,
        ..TcHeader::default()
    };
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

fn filter(index: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = TcHeader {
        index: index as i32,
        handle: TcHandle::from(FILTER_HANDLE),
        parent: TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS },
        // Priority in the upper half, protocol (all) in network order in the lower.
        info: FILTER_PRIORITY << 16 | u32::from((libc::ETH_P_ALL as u16).to_be()),
        ..TcHeader::default()
    };
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    message
}
