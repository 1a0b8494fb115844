use super::*;
use std::os::unix::net::UnixDatagram;
use tidegate_filter::Hook;
use tidegate_packet::Family;

fn line(level: u8, text: &str) -> Line {
    Line { level, text: text.to_owned() }
}

fn waiting(lines: Vec<Line>, packets: Vec<Logged>) -> Waiting {
    let mut waiting = Waiting::default();
    waiting.lines = lines;
    waiting.packets = packets;
    waiting
}

fn config(to: LogTo) -> config::Log {
    config::Log { to, nflog: BTreeMap::new() }
}

fn packet(group: u16, prefix: &str) -> Logged {
    let mut bytes = vec![0x45, 0, 0, 20, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    bytes[11] = 1;
    Logged {
        group,
        prefix: prefix.to_owned(),
        hook: Hook::Forward,
        family: Family::V4,
        input: Some("lan0".to_owned()),
        output: Some("wan0".to_owned()),
        link: Some([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]),
        mark: 7,
        unix_nanos: 1_700_000_000_123_456_789,
        len: 40,
        bytes,
        threshold: 0,
    }
}

#[test]
fn a_file_is_continued_and_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, "before\n").unwrap();
    let sinks = Sinks::open(&config(LogTo::File(path.clone()))).unwrap();
    let tally = sinks.tally();
    sinks.take(waiting(vec![line(4, "one IN=a OUT= "), line(4, "two\nlines")], Vec::new()));
    sinks.reopen();
    sinks.end();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines.len()), ("before", 3), "{text}");
    assert!(lines[1].ends_with(" tidegate: one IN=a OUT= "), "{text}");
    assert!(lines[2].ends_with(" tidegate: two?lines"), "{text}");
    assert_eq!((tally.written(), tally.lost()), (2, 0));

    // logrotate moves the file; what comes after the reload goes into a new one.
    let sinks = Sinks::open(&config(LogTo::File(path.clone()))).unwrap();
    sinks.take(waiting(vec![line(4, "old")], Vec::new()));
    std::fs::rename(&path, folder.path().join("log.1")).unwrap();
    sinks.reopen();
    sinks.take(waiting(vec![line(4, "new")], Vec::new()));
    sinks.end();
    let old = std::fs::read_to_string(folder.path().join("log.1")).unwrap();
    let new = std::fs::read_to_string(&path).unwrap();
    assert!(old.ends_with("old\n") && new.ends_with("new\n") && new.lines().count() == 1);
    let error = Sinks::open(&config(LogTo::File(folder.path().join("no/log")))).unwrap_err();
    assert!(error.to_string().contains("no/log: No such"), "{error}");
}

#[test]
fn syslog_gets_datagrams_in_its_form() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let sinks = Sinks::open(&config(LogTo::Syslog(path.clone()))).unwrap();
    sinks.take(waiting(vec![line(3, "x IN=a ")], Vec::new()));
    let mut buffer = [0; 2048];
    let n = daemon.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
    // <PRI>Mmm dd hh:mm:ss TAG: TEXT
    assert!(text.starts_with("<3>") && text[18..].starts_with(" tidegate: x IN=a "), "{text}");
    // A daemon that is gone loses lines; they are counted.
    let tally = sinks.tally();
    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    sinks.take(waiting(vec![line(3, "y"), line(3, "z")], Vec::new()));
    sinks.end();
    assert_eq!((tally.written(), tally.lost()), (1, 2));
}

#[test]
fn a_slow_reader_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    // Nobody reads from it, so that it takes a few lines and no more.
    let _daemon = UnixDatagram::bind(&path).unwrap();
    let sinks = Sinks::open(&config(LogTo::Syslog(path))).unwrap();
    let tally = sinks.tally();
    let lines = |n| (0..n).map(|_| line(4, "x")).collect();
    for _ in 0..8 {
        sinks.take(waiting(lines(QUEUE), Vec::new()));
    }
    assert!(tally.lost() > QUEUE as u64, "{tally:?}");
    let before = tally.lost();
    let mut more = waiting(Vec::new(), Vec::new());
    more.lost = 5;
    sinks.take(more);
    assert!(tally.lost() >= before + 5);
    // It ends all the same.
    sinks.end();
}

#[test]
fn losses_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let sinks = Sinks::open(&config(LogTo::File(path.clone()))).unwrap();
    let mut lost = waiting(vec![line(4, "x")], Vec::new());
    lost.lost = 3;
    sinks.take(lost);
    sinks.end();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("tidegate: tidegate: 3 log messages lost\n"), "{text}");
}

/// The blocks of a file: type and body.
fn blocks(bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut at, mut out) = (0, Vec::new());
    while at < bytes.len() {
        let len = word(at + 4) as usize;
        assert_eq!(word(at + len - 4) as usize, len);
        out.push((word(at), bytes[at + 8..at + len - 4].to_vec()));
        at += len;
    }
    out
}

#[test]
fn packets_go_to_the_file_of_their_group() {
    let folder = tempfile::tempdir().unwrap();
    let (all, five) = (folder.path().join("all"), folder.path().join("five"));
    let nflog = BTreeMap::from([(None, all.clone()), (Some(5), five.clone())]);
    let config = config::Log { to: LogTo::Stderr, nflog };
    for _ in 0..2 {
        let sinks = Sinks::open(&config).unwrap();
        assert_eq!(*sinks.groups(), Groups::All);
        let own = Logged { input: None, link: None, mark: 0, ..packet(5, "own") };
        sinks.take(waiting(Vec::new(), vec![packet(1, "a"), packet(5, "b"), packet(5, "c"), own]));
        sinks.end();
    }
    let kinds = |path| {
        let blocks = blocks(&std::fs::read(path).unwrap());
        blocks.iter().map(|(kind, _)| *kind).collect::<Vec<_>>()
    };
    const SECTION: u32 = 0x0a0d_0d0a;
    // A section for each start; an interface is described where it is met first.
    assert_eq!(kinds(&all), [SECTION, 1, 1, 6, SECTION, 1, 1, 6]);
    assert_eq!(kinds(&five), [SECTION, 1, 1, 6, 6, 6, SECTION, 1, 1, 6, 6, 6]);
    let text = std::fs::read(&all).unwrap();
    for part in [&b"lan0"[..], b"wan0", b"\x02\x00\x00\x01", &packet(1, "a").bytes] {
        assert!(text.windows(part.len()).any(|w| w == part), "{part:?}");
    }
    let (_, body) = &blocks(&text)[3];
    let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
    let nanos = u64::from(word(4)) << 32 | u64::from(word(8));
    assert_eq!((word(0), nanos), (0, packet(1, "a").unix_nanos));
    // Twenty bytes were cut off.
    assert_eq!(word(16) - word(12), 20);
}

#[test]
fn a_threshold_writes_early() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    let mut capture = Capture::open(path.clone()).unwrap();
    let len = || std::fs::metadata(&path).unwrap().len();
    let head = len();
    capture.write(&packet(1, "")).unwrap();
    capture.write(&Logged { threshold: 3, ..packet(1, "") }).unwrap();
    // Two of at most three: not yet, as long as the time isn't up.
    let since = capture.due().unwrap();
    capture.flush(false).unwrap();
    if len() != head {
        // This machine has stood still for so long that it is.
        assert!(Instant::now() >= since);
        return;
    }
    capture.write(&packet(1, "")).unwrap();
    capture.flush(false).unwrap();
    assert!(len() > head && capture.due().is_none());
}
