//! Tells a service manager how the gateway is (sd_notify(3)): one datagram, no dependency.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Packets are being forwarded.
pub fn ready() {
    tell("READY=1\nSTATUS=forwarding");
}

/// The rules are read again; [`ready`] ends it.
pub fn reloading() {
    let now = nix::time::ClockId::CLOCK_MONOTONIC.now().map(std::time::Duration::from);
    let micros = now.unwrap_or_default().as_micros();
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// The end has begun.
pub fn stopping() {
    tell("STOPPING=1");
}

fn tell(text: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&path, text) {
        tracing::warn!(?path, %error, "the service manager can't be told");
    }
}

fn send(path: &OsString, text: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    socket.connect_addr(&address)?;
    // A manager that doesn't listen must not hold the gateway up.
    socket.set_nonblocking(true)?;
    socket.send(text.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("@tidegate-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
        let sockets = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (name.into(), UnixDatagram::bind_addr(&abstract_address).unwrap()),
        ];
        for (name, socket) in sockets {
            send(&name, "READY=1").unwrap();
            let mut buffer = [0; 64];
            let n = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"READY=1");
        }
    }
}
