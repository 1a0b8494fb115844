//! A device's offloads, switched as `ethtool -K` does it.

use super::sys::{self, check};
use std::io;
use std::os::fd::AsRawFd;

/// What a device may do for the kernel.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Offload {
    /// `tx`: checksums of what is sent.
    TransmitChecksum,
    /// `sg`: packets in pieces.
    ScatterGather,
    /// `tso`: TCP super-packets cut by the device.
    TcpSegmentation,
    /// `gso`: super-packets cut right in front of the device.
    Segmentation,
    /// `gro`: super-packets made of what is received.
    Receive,
}

impl Offload {
    /// The command that switches it (linux/ethtool.h).
    fn command(self) -> u32 {
        match self {
            Self::TransmitChecksum => 0x17,
            Self::ScatterGather => 0x19,
            Self::TcpSegmentation => 0x1f,
            Self::Segmentation => 0x24,
            Self::Receive => 0x2c,
        }
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Switches an offload of an interface of the calling thread's namespace.
pub fn set(name: &str, offload: Offload, on: bool) -> io::Result<()> {
    call(name, Value { command: offload.command(), data: on.into() })?;
    Ok(())
}

/// Whether an offload of an interface of the calling thread's namespace is on.
pub fn get(name: &str, offload: Offload) -> io::Result<bool> {
    // Each command that switches comes right behind the one that asks.
    let value = call(name, Value { command: offload.command() - 1, data: 0 })?;
    Ok(value.data != 0)
}

fn call(name: &str, mut value: Value) -> io::Result<Value> {
    let socket = sys::packet_socket()?;
    let mut request = sys::interface_request(name)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL reads the name and the address in the `ifreq`, and for these commands
    // reads and writes an `ethtool_value` there (linux/ethtool.h); both outlive the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) })?;
    Ok(value)
}

/// Switches what makes, keeps and takes super-packets. Off at both ends of a veth pair, frames go
/// one by one, as on a wire.
pub fn set_super_packets(name: &str, on: bool) -> io::Result<()> {
    let mut all = SUPER_PACKETS;
    if !on {
        all.reverse();
    }
    all.into_iter().try_for_each(|offload| set(name, offload, on))
}

/// Each after what it needs, and off before that is.
const SUPER_PACKETS: [Offload; 4] =
    [Offload::ScatterGather, Offload::Segmentation, Offload::TcpSegmentation, Offload::Receive];

/// How [`set_super_packets`] found an interface.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct SuperPackets([bool; 4]);

/// What of [`set_super_packets`] is on.
pub fn super_packets(name: &str) -> io::Result<SuperPackets> {
    let mut on = [false; 4];
    for (on, offload) in on.iter_mut().zip(SUPER_PACKETS) {
        *on = get(name, offload)?;
    }
    Ok(SuperPackets(on))
}

/// Switches on what was on.
pub fn restore(name: &str, was: SuperPackets) -> io::Result<()> {
    SUPER_PACKETS.into_iter().zip(was.0).try_for_each(|(offload, on)| set(name, offload, on))
}
