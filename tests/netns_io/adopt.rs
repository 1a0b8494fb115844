//! Interfaces with addresses and routes, taken over and given back.

use crate::Topology;
use crate::netns::Namespace;
use std::path::Path;
use std::process::{Command, ExitCode};
use tidegate::link::{AdoptError, adopt, recover};

const CRASH: &str = "TIDEGATE_TEST_ADOPT_AND_CRASH";

/// The part of the crash test that crashes: adopts `lan0` and is killed.
pub fn crash_if_asked() -> Option<ExitCode> {
    let directory = std::env::var_os(CRASH)?;
    match adopt("lan0", Path::new(&directory)) {
        Ok(_adopted) => std::process::abort(),
        Err(error) => eprintln!("{error}"),
    }
    Some(ExitCode::FAILURE)
}

/// A gateway whose `lan0` has a bit of everything.
fn furnished() -> Topology {
    let net = Topology::new();
    for address in ["10.4.0.1/24", "10.4.0.7/24", "10.4.9.1/32", "fd00:4::1/64", "fd00:4::2/64"] {
        net.gateway.address("lan0", address);
    }
    let mut netlink = net.gateway.netlink();
    let index = net.gateway.index("lan0");
    let routes = [
        ("0.0.0.0/0", Some("10.4.0.254"), None),
        ("0.0.0.0/0", Some("10.4.0.253"), Some(500)),
        ("10.99.0.0/16", None, Some(7)),
        // Through a next hop that another route leads to.
        ("10.98.0.0/16", Some("10.99.0.1"), None),
        ("::/0", Some("fd00:4::fe"), None),
        ("fd99::/32", Some("fd00:4::fd"), Some(77)),
    ];
    for (to, via, metric) in routes {
        let via = via.map(|v| v.parse().expect("an address"));
        let device = Some(index);
        netlink.add_route(to.parse().expect("a prefix"), via, device, metric).expect(to);
    }
    net
}

fn addresses_of(namespace: &Namespace, name: &str) -> usize {
    let index = namespace.index(name);
    let addresses = namespace.netlink().addresses().expect("addresses");
    addresses.iter().filter(|a| a.index == index).count()
}

fn files_in(directory: &Path) -> usize {
    std::fs::read_dir(directory).expect("a directory").count()
}

pub fn adoption_and_giving_back() {
    let net = furnished();
    let directory = tempfile::tempdir().expect("a directory");
    let before = net.gateway.state();
    for round in 0..2 {
        let adopted = net.gateway.run(|| adopt("lan0", directory.path()).expect("adopting"));
        assert_eq!(addresses_of(&net.gateway, "lan0"), 0);
        assert_eq!(net.gateway.netlink().routes().expect("routes"), []);
        assert_eq!(net.gateway.sysctl_value("ipv6/conf/lan0/disable_ipv6"), "1");
        assert_eq!(files_in(directory.path()), 1);
        let global = adopted.addresses().iter().filter(|a| a.scope == 0).count();
        assert_eq!((global, adopted.routes().len()), (5, 6));
        // By hand and by dropping.
        if round == 0 {
            adopted.give_back().expect("giving back");
        } else {
            drop(adopted);
        }
        assert_eq!(net.gateway.state(), before);
        assert_eq!(net.gateway.sysctl_value("ipv6/conf/lan0/disable_ipv6"), "0");
        assert_eq!(files_in(directory.path()), 0);
    }
    // A link that was down and bare comes back so.
    let mut netlink = net.gateway.netlink();
    netlink.set_up(net.gateway.index("wan0"), false).expect("down");
    let before = net.gateway.state();
    let adopted = net.gateway.run(|| adopt("wan0", directory.path()).expect("adopting"));
    assert!(netlink.require_link("wan0").expect("the link").up);
    drop(adopted);
    assert_eq!(net.gateway.state(), before);
}

fn crash(net: &Topology, directory: &Path) {
    let program = std::env::current_exe().expect("this program");
    let output = net
        .gateway
        .run(|| Command::new(program).env(CRASH, directory).output().expect("running it"));
    assert_eq!(output.status.code(), None, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(addresses_of(&net.gateway, "lan0"), 0);
    assert_eq!(files_in(directory), 1);
}

pub fn a_crash_is_made_good() {
    let net = furnished();
    let directory = tempfile::tempdir().expect("a directory");
    let before = net.gateway.state();
    crash(&net, directory.path());
    assert!(net.gateway.run(|| recover("lan0", directory.path())).expect("recovering"));
    assert_eq!(net.gateway.state(), before);
    assert_eq!(files_in(directory.path()), 0);
    assert!(!net.gateway.run(|| recover("lan0", directory.path())).expect("nothing to do"));

    // The next start adopts all of it and what came since, and gives both back.
    crash(&net, directory.path());
    net.gateway.address("lan0", "10.5.0.1/24");
    let adopted = net.gateway.run(|| adopt("lan0", directory.path()).expect("adopting"));
    let has = |text: &str| adopted.addresses().iter().any(|a| a.prefix.to_string() == text);
    assert!(has("10.4.0.1/24") && has("10.5.0.1/24") && has("fd00:4::1/64"));
    assert_eq!(addresses_of(&net.gateway, "lan0"), 0);
    drop(adopted);
    let mut netlink = net.gateway.netlink();
    let index = net.gateway.index("lan0");
    netlink.delete_address(index, "10.5.0.1/24".parse().expect("a prefix")).expect("it is there");
    assert_eq!(net.gateway.state(), before);

    // A record of an interface that is no more is no use to another of its name.
    crash(&net, directory.path());
    netlink.delete_link(index).expect("deleting");
    let missing = net.gateway.run(|| recover("lan0", directory.path()));
    assert!(matches!(missing, Err(AdoptError::NoInterface(name)) if name == "lan0"));
    assert_eq!(files_in(directory.path()), 1);
    crate::netns::Wire::new(&net.client, "c1", &net.gateway, "lan0");
    assert!(!net.gateway.run(|| recover("lan0", directory.path())).expect("nothing to do"));
    assert_eq!((addresses_of(&net.gateway, "lan0"), files_in(directory.path())), (0, 0));
}

pub fn an_interface_is_adopted_once() {
    let net = furnished();
    let directory = tempfile::tempdir().expect("a directory");
    let try_to = |name: &str| net.gateway.run(|| adopt(name, directory.path()));
    let first = try_to("lan0").expect("adopting");
    assert!(matches!(try_to("lan0"), Err(AdoptError::Taken(_))));
    drop(first);
    drop(try_to("lan0").expect("adopting again"));
    assert!(matches!(try_to("nosuch0"), Err(AdoptError::NoInterface(_))));
    assert!(matches!(try_to("../lan0"), Err(AdoptError::NoInterface(_))));
    assert_eq!(files_in(directory.path()), 0);
}
