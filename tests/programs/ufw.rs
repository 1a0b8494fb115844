//! ufw: its own rules files, its rules, what it says of them, and packets.

use tidegate::lab::netns::Netns;
use tidegate::lab::traffic::service::Service;

use super::harness::{Gateway, Outcome, TWO, knock, two_hosts};
use super::room::{Names, Room, same_start, settled};

const OPEN: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
*nat
-A POSTROUTING -o wan0 -j MASQUERADE
COMMIT
";

/// From the first start to the end. What these write is compared; `@` looks at the rules.
const LIFE: &[&str] = &[
    "ufw status",
    "ufw --force enable",
    "@",
    "ufw status verbose",
    "ufw allow 22/tcp",
    "ufw allow 22/tcp",
    "ufw deny 23",
    "ufw limit 2222/tcp",
    "ufw reject out 25/tcp",
    "ufw allow from 10.1.0.0/16 to any port 3306 proto tcp",
    "ufw allow from 2001:db8:5::/48",
    "ufw insert 1 deny from 198.51.100.0/24 comment 'not these'",
    "ufw allow in on lan0 to any port 53",
    "ufw allow proto tcp from any to any port 80,443,8000:8010",
    "ufw route allow in on lan0 out on wan0",
    "ufw route deny in on wan0 out on lan0 to 192.168.0.2 port 80 proto tcp",
    "ufw allow log 8443/tcp",
    "ufw default deny routed",
    "ufw logging medium",
    "@",
    "ufw status",
    "ufw status numbered",
    "ufw delete deny 23",
    "ufw --force delete 1",
    "ufw delete allow 99/tcp",
    "ufw allow nonsense",
    "ufw show added",
    "ufw show raw | grep -v '^ *[0-9]'",
    "ufw reload",
    "@",
    "ufw status verbose",
    "ufw disable",
    "@",
    "ufw status",
    "/lib/ufw/ufw-init start --force",
    "@",
    "/lib/ufw/ufw-init flush-all",
    "@",
];

pub fn as_with_iptables() -> Outcome {
    let network = two_hosts().build()?;
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\nipv6 = \"r\"\n");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", OPEN)])?;
    let mut ours = Room::new(network.host("gw"), Names::Gateway(&gateway))?;
    let mut kernel = Room::new(&Netns::new()?, Names::Kernel)?;
    same_start(&mut kernel, OPEN)?;
    for room in [&mut ours, &mut kernel] {
        room.done("sed -i 's/^IPV6=.*/IPV6=yes/' /etc/default/ufw")?;
    }
    let mut last = "";
    for line in LIFE {
        let (command, after) = match *line {
            "@" => ("iptables-save; ip6tables-save", last),
            line => (line, line),
        };
        let (mut theirs, mut ours) = (kernel.run(command)?, ours.run(command)?);
        if *line == "@" {
            (theirs.out, ours.out) = (settled(&theirs.out), settled(&ours.out));
        }
        assert_eq!(ours.out, theirs.out, "{after}");
        assert_eq!(ours.status, theirs.status, "{after}");
        last = after;
    }
    // Chains that it makes for trying something out have names by chance.
    let calls = |room: &Room| -> Vec<String> {
        let calls = room.calls();
        let named = |word: &str| if word.contains("caps-test") { "TEST" } else { word }.to_owned();
        calls.lines().map(|c| c.split(' ').map(named).collect::<Vec<_>>().join(" ")).collect()
    };
    let (theirs, ours) = (calls(&kernel), calls(&ours));
    assert!(theirs.len() > 200, "{theirs:?}");
    assert_eq!(ours, theirs);
    gateway.stop()?;
    Ok(())
}

pub fn packets_agree() -> Outcome {
    let network = two_hosts().build()?;
    let client = network.host("client");
    let _services = [7, 9, 22].map(|port| Service::start(network.host("server"), "server", port));
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\nipv6 = \"r\"\n");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", OPEN)])?;
    let mut room = Room::new(network.host("gw"), Names::Gateway(&gateway))?;
    let (reply, reply6) = ("reply from 203.0.113.2", "reply from 2001:db8:1::2");
    let at = |port: u16| knock(client, &format!("203.0.113.2:{port}"));
    let at6 = |port: u16| knock(client, &format!("[2001:db8:1::2]:{port}"));
    room.done("sed -i 's/^IPV6=.*/IPV6=yes/' /etc/default/ufw")?;
    room.done("ufw default reject routed")?;
    room.done("ufw --force enable")?;
    let rejected = at(7)?;
    assert_ne!(rejected, reply);
    assert_ne!(at6(7)?, reply6);
    room.done("ufw route allow in on lan0 out on wan0 to any port 7 proto tcp")?;
    assert_eq!((at(7)?.as_str(), at6(7)?.as_str()), (reply, reply6));
    assert_eq!(at(9)?, rejected);
    room.done("ufw route allow proto tcp from 192.168.0.0/24 to 203.0.113.2 port 9,22")?;
    assert_eq!((at(9)?.as_str(), at(22)?.as_str()), (reply, reply));
    assert_ne!(at6(9)?, reply6);
    room.done("ufw route insert 1 reject from 192.168.0.2 to any port 22 proto tcp")?;
    assert_ne!(at(22)?, reply);
    room.done("ufw reload")?;
    assert_ne!(at(22)?, reply);
    assert_eq!((at(7)?.as_str(), at6(7)?.as_str()), (reply, reply6));
    room.done("ufw --force delete 1")?;
    assert_eq!(at(22)?, reply);
    // Six new connections in half a minute are one too many.
    room.done("ufw route insert 1 limit proto tcp from any to any port 22")?;
    // A SYN that is sent again counts as well.
    let mut open = 0;
    while at(22)? == reply {
        open += 1;
        assert!(open <= 5, "there is no limit");
    }
    assert!(open > 0);
    assert_eq!(at(22)?, rejected);
    assert_eq!(at(7)?, reply);
    room.done("ufw disable")?;
    assert_eq!((at(22)?.as_str(), at6(9)?.as_str()), (reply, reply6));
    gateway.stop()?;
    Ok(())
}
