//! Leased flows among hosts that answer for themselves.

use crate::common::page;
use crate::world::{HostId, PageWorld, World};
use smoltcp::iface::SocketHandle;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);

/// A question and its answer every 100 ms.
struct Talk {
    world: World,
    client: (HostId, SocketHandle),
    server: (HostId, SocketHandle),
}

impl Talk {
    fn begin() -> Self {
        let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
        world.sim.lease_all();
        let [from, to] =
            [(client, 4000), (server, 7)].map(|(h, port)| (h, world.udp_bind(h, port)));
        Self { world, client: from, server: to }
    }

    /// How many questions were answered, and how many packets the gateway hasn't seen.
    fn go_on(&mut self, seconds: usize) -> [u64; 2] {
        let Self { world, client, server } = self;
        let (before, mut answers) = (world.sim.forwarded(), 0);
        for _ in 0..10 * seconds {
            world.udp_send(client.0, client.1, ("203.0.113.2", 7), b"?");
            if let Some((address, port, _)) = world.udp_recv(server.0, server.1) {
                world.udp_send(server.0, server.1, (&address, port), b"!");
            }
            answers += u64::from(world.udp_recv(client.0, client.1).is_some());
            world.run(TICK);
        }
        [answers, world.sim.forwarded() - before]
    }
}

#[test]
fn one_in_use_outlasts_what_is_known_of_its_next_hops() {
    let mut talk = Talk::begin();
    talk.go_on(10);
    let [answers, forwarded] = talk.go_on(200);
    assert_eq!([answers, forwarded], [2000, 4000]);
}

#[test]
fn a_next_hop_that_is_gone_ends_it() {
    let mut talk = Talk::begin();
    talk.go_on(10);
    let (client, server) = (talk.client.0, talk.server);
    talk.world.unplug(client, true);
    // The other side doesn't know.
    let mut seen = Vec::new();
    for _ in 0..40 {
        for _ in 0..10 {
            talk.world.udp_send(server.0, server.1, ("203.0.113.1", 4000), b"still there?");
            talk.world.run(TICK);
        }
        seen.push(talk.world.sim.forwarded());
    }
    assert!(seen[0] < seen[9], "it is known for some time: {seen:?}");
    assert_eq!(seen[34], seen[39], "30 seconds, and three questions");
}

#[test]
fn one_that_nobody_uses_has_nobody_asked() {
    let mut talk = Talk::begin();
    talk.go_on(10);
    talk.world.heard(talk.client.0);
    talk.world.run(Duration::from_secs(60));
    let asked = talk.world.heard(talk.client.0);
    assert!(asked.is_empty(), "{asked:x?}");
}
