//! `conntrack -L expect` and its like against a running gateway.

use tidegate::lab::traffic::service::Service;

use super::conntrack::{Listener, SHOWN};
use super::harness::{Gateway, LASTING, Outcome, TWO, ask_udp, two_hosts, wait};
use super::names::Names;

/// A helper that reads datagrams of any kind.
const RULES: &str = "*raw
-A PREROUTING -i lan0 -p udp --dport 7 -j CT --helper amanda
COMMIT
";

/// A port of the service's that nobody uses.
const PORT: u16 = 4000;

pub fn expectations_are_made_watched_and_deleted() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\n[sysctl]\nfile = \"s\"\n");
    let gateway = Gateway::start(gw, &toml, &[("r", RULES), ("s", LASTING)])?;
    let names = Names::install(&gateway, gw)?;
    ask_udp(client, "203.0.113.2:7")?;
    let line = names.done("conntrack -L -p udp", "")?;
    let port = line.split_once(" sport=").and_then(|(_, rest)| rest.split_once(' '));
    let port = port.ok_or("no port")?.0;
    let master = format!("-p udp -s 192.168.0.2 -d 203.0.113.2 --sport {port} --dport 7");
    let make = |to: u16, seconds: u16| {
        format!(
            "conntrack -I expect {master} --tuple-src 203.0.113.2 --tuple-dst 192.168.0.2 \
             --tuple-port-src 0 --tuple-port-dst {to} --mask-src 255.255.255.255 \
             --mask-dst 255.255.255.255 --mask-port-src 0 --mask-port-dst 65535 -t {seconds}"
        )
    };
    let shown = |to: u16, left: &str| {
        format!(
            "{left}proto=17 src=203.0.113.2 dst=192.168.0.2 sport=0 dport={to} \
             mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 \
             master-src=192.168.0.2 master-dst=203.0.113.2 sport={port} dport=7 class=0 \
             helper=amanda\n"
        )
    };
    let plain = Listener::start(&names, "plain", &["expect"])?;
    let xml = Listener::start(&names, "xml", &["expect", "-o", "xml,timestamp"])?;
    // Both listen once they tell of one that was made after they began.
    let mut made = String::new();
    wait("listeners", || {
        made = format!("{:?}", names.call(&make(PORT, 80), ""));
        let _ = names.call("conntrack -F expect", "");
        plain.said().contains("[DESTROY]") && xml.said().contains("destroy")
    })
    .map_err(|e| format!("{e}: {made}, {:?}, {:?}", plain.said(), xml.said()))?;
    let (status, out, err) = names.call(&make(PORT, 90), "")?;
    assert_eq!((status, out.as_str(), err.as_str()), (0, "", ""));
    let (status, _, err) = names.call(&make(PORT, 90), "")?;
    assert_eq!((status, err), (1, format!("{SHOWN}Operation failed: File exists\n")));
    let stranger = make(PORT + 1, 90).replace("192.168.0.2 -d", "192.168.0.9 -d");
    let (status, _, err) = names.call(&stranger, "")?;
    let why = "Operation failed: master conntrack not found";
    assert_eq!((status, err), (1, format!("{SHOWN}{why}\n")));
    let (_, out, err) = names.call("conntrack -L expect", "")?;
    assert!(out.ends_with(&shown(PORT, "")), "{out}");
    assert_eq!(err, format!("{SHOWN}1 expectations have been shown.\n"));
    assert_eq!(names.done("conntrack -C expect", "")?, "1\n");
    // Whatever port it comes from.
    let first = "-p udp -s 203.0.113.2 -d 192.168.0.2 --sport 9 --dport";
    let (status, out, err) = names.call(&format!("conntrack -G expect {first} {PORT}"), "")?;
    assert_eq!((status, err.as_str()), (0, ""));
    assert!(out.ends_with(&shown(PORT, "")), "{out}");
    let (status, _, err) = names.call(&format!("conntrack -G expect {first} 7"), "")?;
    let why = "Operation failed: No such file or directory";
    assert_eq!((status, err), (1, format!("{SHOWN}{why}\n")));
    // As the original: it counts none of them.
    let (status, _, err) = names.call(&format!("conntrack -D expect {first} {PORT}"), "")?;
    assert_eq!((status, err), (1, format!("{SHOWN}0 expectations have been shown.\n")));
    assert_eq!(names.done("conntrack -C expect", "")?, "0\n");
    // With their master.
    names.call(&make(PORT + 2, 70), "")?;
    names.done("conntrack -D -p udp", "")?;
    wait("the last one's end", || {
        let said = plain.said();
        said.lines().any(|l| l.starts_with("[DESTROY]") && l.contains(&format!("={} ", PORT + 2)))
    })?;
    let (said, end) = plain.stop()?;
    assert!(said.contains(&shown(PORT, "    [NEW] 90 ")), "{said}");
    // The first that it tells of may have been made just before it listened.
    let first = usize::from(said.starts_with("[DESTROY]"));
    assert_eq!(said.matches("[NEW]").count(), said.matches("[DESTROY]").count() - first, "{said}");
    let count = said.lines().count();
    assert_eq!(end, format!("{SHOWN}{count} expectation events have been shown.\n"));
    let (said, _) = xml.stop()?;
    assert!(said.starts_with("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<expect>\n"), "{said}");
    assert!(said.ends_with("</when></meta></flow>\n</expect>\n"), "{said}");
    assert!(said.contains("<flow type=\"new\"><layer3 protonum=\"2\""), "{said}");
    Ok(())
}
