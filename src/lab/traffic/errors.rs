//! The queue of ICMP errors that a socket keeps (`IP_RECVERR`).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Answer, IcmpError};

/// A socket that talks to `to` alone, keeps the errors it gets, and waits no longer than told.
pub(super) fn connected(
    kind: Type,
    protocol: Option<Protocol>,
    from_port: Option<u16>,
    to: SocketAddr,
    wait: Duration,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), kind, protocol)?;
    keep_errors(&socket, to.is_ipv4())?;
    socket.set_read_timeout(Some(wait))?;
    socket.set_write_timeout(Some(wait))?;
    if let Some(port) = from_port {
        bind_port(&socket, port, to)?;
    }
    socket.connect(&SockAddr::from(to))?;
    Ok(socket)
}

/// Gives a socket that is to talk to `to` a port of our choice.
pub(super) fn bind_port(socket: &Socket, port: u16, to: SocketAddr) -> io::Result<()> {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(any, port)))
}

/// Asks the kernel to keep the ICMP errors for a socket.
pub(super) fn keep_errors(socket: &impl AsFd, v4: bool) -> io::Result<()> {
    if v4 {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
    }
    Ok(())
}

/// The oldest ICMP error in a socket's queue, if there is one.
pub(super) fn next_error(socket: &impl AsFd) -> Option<IcmpError> {
    let mut quoted = [0; 512];
    let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let mut buffers = [IoSliceMut::new(&mut quoted)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let fd = socket.as_fd().as_raw_fd();
    let message = recvmsg::<SockaddrStorage>(fd, &mut buffers, Some(&mut control), flags).ok()?;
    message.cmsgs().ok()?.find_map(|c| match c {
        ControlMessageOwned::Ipv4RecvErr(e, Some(offender)) => {
            Some(error(&e, Ipv4Addr::from(u32::from_be(offender.sin_addr.s_addr)).into()))
        }
        ControlMessageOwned::Ipv6RecvErr(e, Some(offender)) => {
            Some(error(&e, Ipv6Addr::from(offender.sin6_addr.s6_addr).into()))
        }
        _ => None,
    })
}

fn error(e: &libc::sock_extended_err, from: IpAddr) -> IcmpError {
    let names_mtu = match from {
        IpAddr::V4(_) => e.ee_type == 3 && e.ee_code == 4,
        IpAddr::V6(_) => e.ee_type == 2,
    };
    let mtu = names_mtu.then_some(e.ee_info);
    IcmpError { from, kind: e.ee_type, code: e.ee_code, mtu }
}

/// What the network answered if a call on `socket` failed with `failed`; the failure itself if
/// the network has nothing to do with it.
pub(super) fn answer(socket: &impl AsFd, failed: io::Error) -> io::Result<Answer> {
    if let Some(error) = next_error(socket) {
        return Ok(Answer::Error(error));
    }
    match failed.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Ok(Answer::Reset),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(Answer::Silence),
        _ => Err(failed),
    }
}
