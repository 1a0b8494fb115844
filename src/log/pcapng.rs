//! pcapng files of packets that met NFLOG (draft-ietf-opsawg-pcapng).
//!
//! A packet is written with its netfilter header (link type NFLOG), as `tcpdump -i nflog:5 -w` would:
//! Wireshark then shows and filters prefix, group, hook and mark as fields of their own
//! (`nflog.prefix`), tcpdump reads it, and nothing has to be parsed out of comments. Each interface
//! has a description block with its name; a packet belongs to the one it came in by, or to the one it
//! leaves by if the gateway made it. An existing file is continued with a new section.

use crate::engine::log::Logged;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidegate_packet::Family;

/// LINKTYPE_NFLOG.
const LINK_TYPE: u16 = 239;
/// Packets that may wait to be written, and for how long, as nfnetlink_log's queue by default.
const QUEUE: u16 = 100;
const WAIT: Duration = Duration::from_secs(1);

/// One file.
pub(super) struct Capture {
    path: PathBuf,
    file: File,
    /// Length of the file up to the last whole block.
    len: u64,
    /// Blocks that wait to be written.
    held: Vec<u8>,
    packets: u16,
    /// Packets may wait for this many at most: the smallest `--nflog-threshold` among them.
    most: u16,
    since: Option<Instant>,
    /// Numbers of the interfaces described so far in this section, and their indices in the kernel.
    interfaces: HashMap<String, (u32, u32)>,
    complained: bool,
}

impl Capture {
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let (file, len) = open(&path)?;
        let mut capture = Self {
            path,
            file,
            len,
            held: Vec::new(),
            packets: 0,
            most: QUEUE,
            since: None,
            interfaces: HashMap::new(),
            complained: false,
        };
        capture.begin_section();
        capture.flush(true).map_err(|_| io::Error::other("the file's head can't be written"))?;
        Ok(capture)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file again; what was held back has been written.
    pub fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.len) = open(&self.path)?;
        self.begin_section();
        Ok(())
    }

    /// Takes a packet.
    pub fn write(&mut self, packet: &Logged) -> Result<(), ()> {
        let input = packet.input.as_deref();
        let own = input.or(packet.output.as_deref()).unwrap_or("none");
        let (number, _) = self.interface(own);
        let index = |this: &mut Self, name: Option<&str>| match name {
            Some(name) => Some(this.interface(name).1).filter(|index| *index != 0),
            None => None,
        };
        let indices = [index(self, input), index(self, packet.output.as_deref())];
        let bytes = record(packet, indices);
        let missing = (packet.len as usize).saturating_sub(packet.bytes.len());
        let mut body = Vec::with_capacity(bytes.len() + 40);
        body.extend(number.to_le_bytes());
        body.extend(((packet.unix_nanos >> 32) as u32).to_le_bytes());
        body.extend((packet.unix_nanos as u32).to_le_bytes());
        body.extend((bytes.len() as u32).to_le_bytes());
        body.extend(((bytes.len() + missing) as u32).to_le_bytes());
        body.extend(&bytes);
        pad(&mut body);
        // epb_flags: in or out.
        let way: u32 = if input.is_some() { 1 } else { 2 };
        option(&mut body, 2, &way.to_le_bytes());
        option(&mut body, 0, &[]);
        block(&mut self.held, 6, &body);
        self.packets += 1;
        if packet.threshold != 0 {
            self.most = self.most.min(packet.threshold);
        }
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// When the packets that wait are to be written at the latest.
    pub fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + WAIT)
    }

    /// Writes what has waited long enough, or everything. An error tells how many packets are lost.
    pub fn flush(&mut self, all: bool) -> Result<(), u64> {
        let due = self.due().is_some_and(|at| at <= Instant::now());
        if self.held.is_empty() || !all && !due && self.packets < self.most {
            return Ok(());
        }
        let result = self.file.write_all(&self.held);
        let (written, packets) = (self.held.len() as u64, u64::from(self.packets));
        self.held.clear();
        (self.packets, self.most, self.since) = (0, QUEUE, None);
        match result {
            Ok(()) => {
                self.len += written;
                self.complained = false;
                Ok(())
            }
            Err(error) => {
                if !self.complained {
                    tracing::error!(path = %self.path.display(), %error, "the log can't be written");
                }
                self.complained = true;
                // Half a block would make everything behind it unreadable; descriptions may have
                // been in it.
                let _ = self.file.set_len(self.len);
                self.begin_section();
                Err(packets)
            }
        }
    }

    fn begin_section(&mut self) {
        self.interfaces.clear();
        let mut body = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
        body.extend([1, 0, 0, 0]);
        // A section of unknown length.
        body.extend(u64::MAX.to_le_bytes());
        option(&mut body, 4, concat!("tidegate ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut body, 0, &[]);
        block(&mut self.held, 0x0a0d_0d0a, &body);
    }

    /// An interface's number in this section, described if it is new, and its index in the kernel.
    fn interface(&mut self, name: &str) -> (u32, u32) {
        if let Some(known) = self.interfaces.get(name) {
            return *known;
        }
        let mut body = LINK_TYPE.to_le_bytes().to_vec();
        // No limit to a packet's length.
        body.extend([0; 6]);
        option(&mut body, 2, name.as_bytes());
        // Time in nanoseconds.
        option(&mut body, 9, &[9]);
        option(&mut body, 0, &[]);
        block(&mut self.held, 1, &body);
        let number = self.interfaces.len() as u32;
        // A bridge of our own has none.
        let index = nix::net::if_::if_nametoindex(name).unwrap_or(0);
        self.interfaces.insert(name.to_owned(), (number, index));
        (number, index)
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let len = file.seek(SeekFrom::End(0))?;
    Ok((file, len))
}

/// The packet with the header of nfnetlink_log: family, version, group, then attributes.
fn record(packet: &Logged, [input, output]: [Option<u32>; 2]) -> Vec<u8> {
    let (family, ethertype) = match packet.family {
        Family::V4 => (libc::AF_INET as u8, 0x0800_u16),
        Family::V6 => (libc::AF_INET6 as u8, 0x86dd),
    };
    let [high, low] = packet.group.to_be_bytes();
    let mut out = vec![family, 0, high, low];
    let [first, second] = ethertype.to_be_bytes();
    attribute(&mut out, 1, &[first, second, packet.hook as u8, 0]);
    let mut prefix = packet.prefix.as_bytes().to_vec();
    prefix.push(0);
    attribute(&mut out, 10, &prefix);
    for (kind, index) in [(4, input), (5, output)] {
        if let Some(index) = index {
            attribute(&mut out, kind, &index.to_be_bytes());
        }
    }
    if packet.mark != 0 {
        attribute(&mut out, 2, &packet.mark.to_be_bytes());
    }
    if let Some(header) = packet.link {
        let source = &header[6..12];
        attribute(&mut out, 8, &[&[0, 6, 0, 0], source, &[0, 0]].concat());
        attribute(&mut out, 15, &1_u16.to_be_bytes());
        attribute(&mut out, 17, &(header.len() as u16).to_be_bytes());
        attribute(&mut out, 16, &header);
    }
    let (seconds, nanos) = (packet.unix_nanos / 1_000_000_000, packet.unix_nanos % 1_000_000_000);
    attribute(&mut out, 3, &[seconds.to_be_bytes(), (nanos / 1000).to_be_bytes()].concat());
    attribute(&mut out, 9, &packet.bytes);
    out
}

/// Length and type are in the file's byte order, values in the network's.
fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // A packet of the greatest length leaves no room for the header in front of it.
    let value = &value[..value.len().min(usize::from(u16::MAX) - 4)];
    out.extend((value.len() as u16 + 4).to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(value);
    pad(out);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    pad(out);
}

fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let len = (body.len() as u32 + 12).to_le_bytes();
    out.extend(kind.to_le_bytes());
    out.extend(len);
    out.extend(body);
    out.extend(len);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}
