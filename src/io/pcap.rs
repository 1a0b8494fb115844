//! Captures in the classic pcap format, Ethernet only, read and written:
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>. The whole format is 40 bytes
//! of headers; a crate would be longer to explain than this file.

use std::io::{self, ErrorKind, Read, Write};
use tidegate_packet::Instant;

const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;

/// The longest frame: as long as anybody writes (tcpdump's limit), and no more than a broken file
/// may make us allocate.
const SNAP_LEN: u32 = 262_144;

/// A captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was captured, on the capture's own clock (as a rule since 1970).
    pub time: Instant,
    /// Its bytes, as far as they were captured.
    pub bytes: Vec<u8>,
    /// Its length on the wire.
    pub wire_len: u32,
}

/// Why a capture can't be read.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// The file doesn't begin as a pcap file does.
    #[error("not a pcap file (pcapng files must be converted first)")]
    NotPcap,
    /// The frames aren't Ethernet's.
    #[error("link type {0} instead of 1, Ethernet")]
    LinkType(u32),
    /// The file ends inside a header or a frame.
    #[error("record {0} is cut short")]
    Truncated(u64),
    /// A record says it is longer than any frame.
    #[error("record {0} claims {1} bytes")]
    TooLong(u64, u32),
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads a capture, one record after the other.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    swapped: bool,
    nanos_per_tick: u64,
    records: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the file's header.
    pub fn new(mut input: R) -> Result<Self, PcapError> {
        let mut header = [0; 24];
        if fill(&mut input, &mut header)? < header.len() {
            return Err(PcapError::NotPcap);
        }
        let magic = word(&header, 0, false);
        let (swapped, nanos_per_tick) = match (magic, magic.swap_bytes()) {
            (MAGIC_MICROS, _) => (false, 1000),
            (MAGIC_NANOS, _) => (false, 1),
            (_, MAGIC_MICROS) => (true, 1000),
            (_, MAGIC_NANOS) => (true, 1),
            _ => return Err(PcapError::NotPcap),
        };
        // The upper bits say whether frames carry their check sequence, and how long it is.
        let link_type = word(&header, 20, swapped) & 0xffff;
        if link_type != LINKTYPE_ETHERNET {
            return Err(PcapError::LinkType(link_type));
        }
        Ok(Self { input, swapped, nanos_per_tick, records: 0 })
    }

    fn next_record(&mut self) -> Result<Option<Record>, PcapError> {
        let mut header = [0; 16];
        let n = fill(&mut self.input, &mut header)?;
        if n == 0 {
            return Ok(None);
        }
        self.records += 1;
        if n < header.len() {
            return Err(PcapError::Truncated(self.records));
        }
        let field = |at| word(&header, at, self.swapped);
        let captured = field(8);
        if captured > SNAP_LEN {
            return Err(PcapError::TooLong(self.records, captured));
        }
        let mut bytes = vec![0; captured as usize];
        if fill(&mut self.input, &mut bytes)? < bytes.len() {
            return Err(PcapError::Truncated(self.records));
        }
        let nanos = u64::from(field(0)) * 1_000_000_000 + u64::from(field(4)) * self.nanos_per_tick;
        Ok(Some(Record { time: Instant::from_nanos(nanos), bytes, wire_len: field(12) }))
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Record, PcapError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

/// Writes a capture with nanoseconds.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Writes the file's header. Wrap a file in a `BufWriter`.
    pub fn new(mut output: W) -> io::Result<Self> {
        let mut header = [0; 24];
        header[0..4].copy_from_slice(&MAGIC_NANOS.to_le_bytes());
        header[4..6].copy_from_slice(&2_u16.to_le_bytes());
        header[6..8].copy_from_slice(&4_u16.to_le_bytes());
        header[16..20].copy_from_slice(&SNAP_LEN.to_le_bytes());
        header[20..24].copy_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
        output.write_all(&header)?;
        Ok(Self { output })
    }

    /// Writes a frame; one longer than any reader takes is cut.
    pub fn write(&mut self, time: Instant, bytes: &[u8]) -> io::Result<()> {
        let captured = bytes.len().min(SNAP_LEN as usize);
        let nanos = time.as_nanos();
        let seconds = u32::try_from(nanos / 1_000_000_000)
            .map_err(|_| io::Error::new(ErrorKind::InvalidInput, "the time is beyond 2106"))?;
        let mut header = [0; 16];
        header[0..4].copy_from_slice(&seconds.to_le_bytes());
        header[4..8].copy_from_slice(&((nanos % 1_000_000_000) as u32).to_le_bytes());
        header[8..12].copy_from_slice(&(captured as u32).to_le_bytes());
        header[12..16].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.output.write_all(&header)?;
        self.output.write_all(&bytes[..captured])
    }

    /// Passes on what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// What it wrote to.
    pub fn into_inner(self) -> W {
        self.output
    }
}

fn word(bytes: &[u8], at: usize, swapped: bool) -> u32 {
    let word = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if swapped { word.swap_bytes() } else { word }
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match input.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(read) => n += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<(Instant, Vec<u8>)> {
        vec![
            (Instant::from_nanos(1_700_000_000_123_456_789), vec![1; 60]),
            (Instant::from_nanos(1_700_000_001_000_000_000), Vec::new()),
            (
                Instant::from_nanos(1_700_000_001_999_999_999),
                (0..=255).cycle().take(65_550).collect(),
            ),
        ]
    }

    fn written() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).expect("a Vec takes all");
        for (time, bytes) in frames() {
            writer.write(time, &bytes).expect("a Vec takes all");
        }
        writer.into_inner()
    }

    fn read(file: &[u8]) -> Result<Vec<Record>, PcapError> {
        Reader::new(file)?.collect()
    }

    /// The same file as a machine of the other byte order writes it.
    fn swapped(file: &[u8]) -> Vec<u8> {
        let mut out = file.to_vec();
        out[0..4].reverse();
        [4, 6].into_iter().for_each(|at| out[at..at + 2].reverse());
        [8, 12, 16, 20].into_iter().for_each(|at| out[at..at + 4].reverse());
        let mut at = 24;
        while at < file.len() {
            let captured = word(file, at + 8, false) as usize;
            (0..4).for_each(|i| out[at + 4 * i..at + 4 * i + 4].reverse());
            at += 16 + captured;
        }
        out
    }

    #[test]
    fn what_is_written_is_read() {
        for file in [written(), swapped(&written())] {
            let records = read(&file).expect("a whole file");
            let got: Vec<_> = records.iter().map(|r| (r.time, r.bytes.clone())).collect();
            assert_eq!(got, frames());
            assert!(records.iter().all(|r| r.wire_len as usize == r.bytes.len()));
        }
    }

    #[test]
    fn microseconds_are_read() {
        let mut file = written();
        file[0..4].copy_from_slice(&MAGIC_MICROS.to_le_bytes());
        file[28..32].copy_from_slice(&123_456_u32.to_le_bytes());
        let record = Reader::new(file.as_slice()).expect("a header").next();
        let record = record.expect("a record").expect("whole");
        assert_eq!(record.time, Instant::from_nanos(1_700_000_000_123_456_000));
    }

    #[test]
    fn damage_is_an_error_with_the_records_number() {
        let file = written();
        let mut other_link = file.clone();
        other_link[20] = 101;
        let mut too_long = file.clone();
        too_long[24 + 8 + 3] = 0xff;
        let rows: [(&str, &[u8], &str); 7] = [
            ("empty", &[], "not a pcap file"),
            ("half a header", &file[..20], "not a pcap file"),
            ("text", b"this is no capture, is it?", "not a pcap file"),
            ("raw IP", &other_link, "link type 101"),
            ("cut in a record header", &file[..24 + 10], "record 1 is cut"),
            ("cut in a frame", &file[..24 + 16 + 60 + 16 + 16 + 5], "record 3 is cut"),
            ("a length of 4 GB", &too_long, "record 1 claims"),
        ];
        for (what, file, want) in rows {
            let error = read(file).expect_err(what).to_string();
            assert!(error.starts_with(want), "{what}: {error}");
        }
    }
}
