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
    let socket = sys::packet_socket()?;
    let mut value = Value { command: offload.command(), data: on.into() };
    let mut request = sys::interface_request(name)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL reads the name and the address in the `ifreq`, and for these commands
    // reads and writes an `ethtool_value` there (linux/ethtool.h); both outlive the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) })?;
    Ok(())
}

/// Switches what makes, keeps and takes super-packets. Off at both ends of a veth pair, frames go
/// one by one, as on a wire.
pub fn set_super_packets(name: &str, on: bool) -> io::Result<()> {
    use Offload::{Receive, ScatterGather, Segmentation, TcpSegmentation};
    // Each after what it needs, and off before that is.
    let mut all = [ScatterGather, Segmentation, TcpSegmentation, Receive];
    if !on {
        all.reverse();
    }
    all.into_iter().try_for_each(|offload| set(name, offload, on))
}
