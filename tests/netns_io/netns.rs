//! Namespaces, links between them, and a thread that copies frames.

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tidegate::io::{BURST, Meta, Receive, Transmit};
use tidegate::link::netlink::{Netlink, VethEnd};

/// How long a test waits for what must happen. Generous: a loaded machine isn't a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub type Device = (Box<dyn Receive>, Box<dyn Transmit>);

/// Makes sure that this process may make network namespaces, if need be by becoming root of a user
/// namespace. Must be called before threads are started.
pub fn become_able() -> Result<(), String> {
    let tried = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    if matches!(tried, Ok(Ok(()))) {
        return Ok(());
    }
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|e| format!("not root, and no user namespace: {e}"))?;
    let write = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("{file}: {e}"))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))?;
    let tried = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    matches!(tried, Ok(Ok(())))
        .then_some(())
        .ok_or_else(|| "a namespace of ours is powerless".into())
}

/// Whether what can't be tested here may be passed over.
pub fn may_skip() -> bool {
    std::env::var_os("TIDEGATE_FORBID_SKIP").is_none_or(|value| value != "1")
}

/// What a test needs beside namespaces and doesn't find: in a user namespace `/dev/net/tun` may
/// belong to somebody else.
pub fn lacking(test: &str) -> Option<String> {
    let needs_tun = ["tap", "tun"].iter().any(|word| test.contains(word));
    let tun = || File::options().read(true).write(true).open("/dev/net/tun").err();
    needs_tun.then(tun).flatten().map(|error| format!("/dev/net/tun: {error}"))
}

/// A network namespace of its own, gone when this and its links are dropped.
pub struct Namespace {
    file: File,
}

impl Namespace {
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            // Nothing but what the test sends is to be on the wires.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            File::open("/proc/thread-self/ns/net").expect("its file")
        });
        Self { file: made.join().expect("the helper thread") }
    }

    /// Another name for it.
    pub fn again(&self) -> Self {
        Self { file: self.file.try_clone().expect("another descriptor") }
    }

    /// Runs something inside.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).expect("entering a namespace");
                what()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn netlink(&self) -> Netlink {
        Netlink::open_in(self.file.as_fd()).expect("netlink")
    }

    pub fn index(&self, name: &str) -> u32 {
        self.netlink().require_link(name).expect("the link").index
    }

    /// Brings a link up with an address, of either family.
    pub fn address(&self, name: &str, address: &str) {
        if address.contains(':') {
            self.sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "0");
        }
        let mut netlink = self.netlink();
        let index = self.index(name);
        netlink.add_address(index, address.parse().expect("an address")).expect("adding it");
    }

    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| std::fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}")));
    }

    pub fn sysctl_value(&self, name: &str) -> String {
        self.run(|| std::fs::read_to_string(format!("/proc/sys/net/{name}")).expect("a sysctl"))
            .trim()
            .to_owned()
    }

    /// Everything `ip addr` and `ip route` would show, in a stable order.
    pub fn state(&self) -> Vec<String> {
        let mut netlink = self.netlink();
        let links = netlink.links().expect("links").into_iter().map(|l| {
            let (name, up) = (&l.name, l.up);
            format!("link {name} {} {up}", l.mtu)
        });
        let mut state: Vec<_> = links.collect();
        state.extend(netlink.addresses().expect("addresses").iter().map(|a| {
            // Whether an IPv6 address has finished duplicate detection isn't ours to restore, nor
            // that it is spared it.
            format!("{:?} {:?} {:?} {} {:x}", a.prefix, a.peer, a.label, a.scope, a.flags & !0x42)
        }));
        state.extend(netlink.routes().expect("routes").iter().map(|r| format!("{r:?}")));
        state.sort();
        state
    }
}

/// A veth pair, both ends up.
pub struct Wire {
    pub far_mac: tidegate_packet::MacAddr,
}

impl Wire {
    pub fn new(near: &Namespace, near_name: &str, far: &Namespace, far_name: &str) -> Self {
        let far_end = VethEnd { namespace: Some(far.file.as_fd()), ..VethEnd::new(far_name) };
        near.netlink().create_veth(VethEnd::new(near_name), far_end).expect("a veth pair");
        let raise = |namespace: &Namespace, name: &str| {
            let mut netlink = namespace.netlink();
            let link = netlink.require_link(name).expect("an end");
            netlink.set_up(link.index, true).expect("bringing it up");
            link.mac.expect("an Ethernet address")
        };
        raise(near, near_name);
        Self { far_mac: raise(far, far_name) }
    }
}

/// Asks a question until the answer is there.
pub fn wait_for<T>(what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A thread that copies frames between two devices until it is dropped.
pub struct Plumb {
    stop: Arc<AtomicBool>,
    supers: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Plumb {
    pub fn new(mut a: Device, mut b: Device) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (supers, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, supers, refused) = (stop.clone(), supers.clone(), refused.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut moved = copy(&mut *a.0, &mut *b.1, &supers, &refused);
                    moved += copy(&mut *b.0, &mut *a.1, &supers, &refused);
                    if moved == 0 {
                        thread::sleep(Duration::from_micros(50));
                    }
                }
            })
        };
        Self { stop, supers, refused, thread: Some(thread) }
    }

    pub fn supers(&self) -> u64 {
        self.supers.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Plumb {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn copy(
    from: &mut dyn Receive,
    to: &mut dyn Transmit,
    supers: &AtomicU64,
    refused: &AtomicU64,
) -> usize {
    let n = match from.receive() {
        Ok(n) => n,
        Err(error) if error.kind() == ErrorKind::NetworkDown => 0,
        Err(error) => panic!("receiving: {error}"),
    };
    assert!(n <= BURST);
    for i in 0..n {
        let mut frame = from.frame(i);
        frame.restore_vlan();
        supers.fetch_add(u64::from(frame.meta.offload.gso.is_some()), Ordering::Relaxed);
    }
    let sent = to.send(&mut (0..n).map(|i| from.sent(i))).expect("sending");
    refused.fetch_add(sent.refused as u64, Ordering::Relaxed);
    from.release();
    n
}

/// Reads so many frames that pass `wanted`, with their metadata.
pub fn collect(
    device: &mut dyn Receive,
    count: usize,
    wanted: impl Fn(&[u8]) -> bool,
) -> Vec<(Vec<u8>, Meta)> {
    let mut found = Vec::new();
    wait_for("frames", || {
        let n = device.receive().expect("receiving");
        for i in 0..n {
            let frame = device.frame(i);
            if wanted(frame.bytes()) {
                found.push((frame.bytes().to_vec(), *frame.meta));
            }
        }
        device.release();
        (found.len() >= count).then_some(())
    });
    found
}
