//! Who stands on the way, and how wide it is.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tidegate::lab::traffic::bulk::{Bulk, Direction};

use super::stage::{Outcome, Stage, Tried, wait};

/// The hops that `traceroute -n -q 1` prints.
fn hops(stage: &Stage, kind: &[&str], to: &str) -> Tried<Vec<String>> {
    let mut command = vec!["traceroute", "-n", "-q1", "-N1", "-w10", "-m6"];
    command.extend(kind);
    command.push(to);
    let said = stage.run("client", &command)?;
    let lines = said.lines().skip(1);
    Ok(lines.filter_map(|l| l.split_whitespace().nth(1)).map(str::to_owned).collect())
}

/// Errors about UDP, ICMP and TCP probes find their way back through the NAT; so does the answer.
pub fn traceroute(stage: &Stage) -> Outcome {
    let ways = [
        ("198.51.100.10", ["192.168.0.1", "203.0.113.2", "198.51.100.10"]),
        ("2001:db8:2::10", ["fd00:1::1", "2001:db8:1::2", "2001:db8:2::10"]),
    ];
    for (to, want) in ways {
        for kind in [&[][..], &["-I"], &["-T", "-p80"], &["-T", "-p9"], &["-U", "-p7"]] {
            assert_eq!(hops(stage, kind, to)?, want, "traceroute {kind:?} {to}");
        }
    }
    // Inwards, by the port forward: the gateway is a hop like any other, and what stands behind it
    // has the address that was asked for.
    let said = stage.run(
        "outsider",
        &["traceroute", "-n", "-q1", "-N1", "-w10", "-m6", "-T", "-p8000", "203.0.113.1"],
    )?;
    let seen: Vec<_> = said.lines().skip(1).filter_map(|l| l.split_whitespace().nth(1)).collect();
    assert_eq!(seen, ["192.0.2.1", "203.0.113.1", "203.0.113.1"], "{said}");
    Ok(())
}

/// tracepath finds the narrow link, and the end.
pub fn tracepath(stage: &Stage) -> Outcome {
    for (to, hop, far) in [
        ("100.64.0.10", "192.168.0.1", "203.0.113.2"),
        ("2001:db8:4::10", "fd00:1::1", "2001:db8:1::2"),
    ] {
        let said = stage.run("client", &["tracepath", "-n", "-m6", to])?;
        let words: Vec<&str> = said.split_whitespace().collect();
        let line = said.lines().find(|l| l.contains("reached")).unwrap_or_default();
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(line.contains(to) && line.contains("reached"), "{said}");
        assert!(words.contains(&hop) && words.contains(&far), "{said}");
        let resume = said.lines().last().unwrap_or_default();
        assert!(resume.contains("pmtu 1400") && resume.contains("hops 3"), "{said}");
    }
    Ok(())
}

/// Behind the uplink's router the links are of 1400 bytes. TCP finds out, datagrams are cut up.
pub fn a_narrow_path(stage: &Stage) -> Outcome {
    narrow_from(stage, "client2")?;
    // A kernel whose bridges call netfilter forgets in them how long an IPv6 packet's fragments
    // were, and sends on what is too long for the next router; so only half of this is for it.
    if stage.kernel { Ok(()) } else { narrow_from(stage, "client") }
}

fn narrow_from(stage: &Stage, client: &str) -> Outcome {
    for to in ["100.64.0.10", "2001:db8:4::10"] {
        // The first echo may be what finds out that the path is narrow.
        let said = stage.run(client, &["ping", "-n", "-c4", "-i0.2", "-W10", "-s3000", to])?;
        // Nor need the error be there before the next is sent.
        let found_out =
            |got: usize| said.contains(&format!(" {got} received, +{} errors", 4 - got));
        let none_lost = said.contains(" 0% packet loss") || (1..4).any(found_out);
        assert!(none_lost && said.contains("3008 bytes from"), "{said}");
    }
    // Just below the path's width, just above (IPv6: above both times), and three pieces.
    for size in [1372, 1373, 4000] {
        echo(stage, client, "100.64.0.10:7", size)?;
        echo(stage, client, "[2001:db8:4::10]:7", size)?;
    }
    for (address, port) in [("100.64.0.10", 5001), ("2001:db8:4::10", 5002)] {
        for direction in [Direction::Forward, Direction::Reverse] {
            let to = SocketAddr::new(address.parse()?, port);
            let bulk = Bulk {
                client: stage.scene.network.host(client),
                server: stage.scene.network.host("narrow"),
                listen: to,
                connect: to,
                direction,
                streams: 2,
                time: Duration::from_millis(300),
            };
            let done = bulk.run().map_err(|e| format!("{to} {direction:?}: {e}"))?;
            // More than fits before the path's width is known, however slow it was.
            assert!(done.intact && done.bytes >= 1 << 18, "{to} {direction:?}: {done:?}");
        }
    }
    Ok(())
}

/// A datagram there and back. The first may be what finds out how narrow the path is.
fn echo(stage: &Stage, client: &str, to: &str, size: usize) -> Outcome {
    let to: SocketAddr = to.parse()?;
    let data: Vec<u8> = (0..size).map(|n| (n * 7 % 251) as u8).collect();
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = stage.scene.at(client, || UdpSocket::bind(any))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut answer = vec![0; 65_536];
    wait(&format!("{size} bytes back from {to}"), || {
        let asked = socket.send_to(&data, to).and_then(|_| socket.recv(&mut answer));
        asked.is_ok_and(|n| answer[..n] == data)
    })
}
