//! Programs whose data flow on other connections than the one that they begin with: FTP, TFTP, SIP,
//! PPTP. Each has a `CT` rule; what comes then is RELATED, and the page's rules let it in.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::stage::{Outcome, Program, Stage, Tried, wait};

const SERVER: &str = "198.51.100.10";
/// The Debian one, which has Debian's modules.
const PYTHON: &str = "/usr/bin/python3";

/// What is fetched: more than a window.
fn file() -> String {
    (0..40_000).map(|n| format!("line {n}\n")).collect()
}

/// A directory of everybody's with the file in it.
fn shared() -> Tried<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    fs::write(directory.path().join("file"), file())?;
    fs::set_permissions(directory.path().join("file"), fs::Permissions::from_mode(0o644))?;
    Ok(directory)
}

fn helper(stage: &Stage, protocol: &str, port: u16, name: &str) -> Outcome {
    for program in ["iptables", "ip6tables"] {
        if program == "ip6tables" && name == "pptp" {
            continue;
        }
        let rule =
            format!("-t raw -A PREROUTING -p {protocol} --dport {port} -j CT --helper {name}");
        stage.tables(program, &rule)?;
    }
    Ok(())
}

/// Waits until a host's program listens.
fn listens(stage: &Stage, socket: &str, port: u16) -> Outcome {
    let port = format!(":{port} ");
    wait(&format!("a server on{port}"), || {
        stage.run("server", &["ss", "-Hln", socket]).is_ok_and(|said| said.contains(&port))
    })
}

/// What curl fetches.
fn curl(stage: &Stage, arguments: &[&str]) -> Tried<String> {
    let directory = tempfile::tempdir()?;
    let to = directory.path().join("fetched").to_string_lossy().into_owned();
    let plain = ["curl", "-sS", "--max-time", "60", "--noproxy", "*", "-o", &to];
    stage.run("client", &[&plain[..], arguments].concat())?;
    Ok(fs::read_to_string(&to)?)
}

/// Active and passive, by the old commands and the new ones, over IPv4 with and IPv6 without
/// translation.
pub fn ftp(stage: &Stage) -> Outcome {
    helper(stage, "tcp", 21, "ftp")?;
    let directory = shared()?;
    let path = directory.path().to_string_lossy().into_owned();
    let server = [PYTHON, "-m", "pyftpdlib", "-i", "::", "-p", "21", "-d", &path];
    let _server = stage.start_quietly("server", &server)?;
    listens(stage, "-t", 21)?;
    let (v4, v6) = (format!("ftp://{SERVER}/file"), "ftp://[2001:db8:2::10]/file");
    for arguments in [
        vec![&v4[..]],
        vec!["--disable-epsv", &v4],
        vec!["--ftp-port", "-", &v4],
        vec!["--ftp-port", "-", "--disable-eprt", &v4],
        vec![v6],
        vec!["--ftp-port", "-", v6],
    ] {
        let got = curl(stage, &arguments).map_err(|e| format!("{arguments:?}: {e}"))?;
        assert!(got == file(), "{arguments:?}: {} bytes", got.len());
    }
    Ok(())
}

/// The server answers from another port.
pub fn tftp(stage: &Stage) -> Outcome {
    helper(stage, "udp", 69, "tftp")?;
    let directory = shared()?;
    let path = directory.path().to_string_lossy().into_owned();
    let server = ["in.tftpd", "-L", "--address", "0.0.0.0:69", "--secure", &path];
    let _server = stage.start_quietly("server", &server)?;
    listens(stage, "-u", 69)?;
    let got = curl(stage, &[&format!("tftp://{SERVER}/file")])?;
    assert!(got == file(), "curl: {} bytes", got.len());
    let fetched = directory.path().join("fetched").to_string_lossy().into_owned();
    let command = ["tftp", "-4", SERVER, "-m", "binary", "-c", "get", "file", &fetched];
    stage.run("client", &command)?;
    assert!(fs::read_to_string(&fetched)? == file());
    Ok(())
}

/// A call, as its server hears of it: by the gateway's address.
pub fn sip(stage: &Stage) -> Outcome {
    helper(stage, "udp", 5060, "sip")?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("messages").to_string_lossy().into_owned();
    let server = ["sipp", "-sn", "uas", "-i", SERVER, "-p", "5060", "-m", "1", "-nostdin"];
    let traced = ["-trace_msg", "-message_file", &path];
    let server = stage.start_quietly("server", &[&server[..], &traced].concat())?;
    listens(stage, "-u", 5060)?;
    let client = ["sipp", "-sn", "uac", "198.51.100.10:5060", "-i", "192.168.0.2", "-p", "5070"];
    let once = ["-m", "1", "-d", "10", "-nostdin"];
    stage.start_quietly("client", &[&client[..], &once].concat())?.finish_well()?;
    server.finish_well()?;
    let heard = fs::read_to_string(&path)?;
    let (_, invite) = heard.split_once("\nINVITE ").ok_or("no INVITE")?;
    let invite = invite.split("-----").next().unwrap_or_default();
    for want in [
        "Via: SIP/2.0/UDP 203.0.113.1:5070;",
        "From: sipp <sip:sipp@203.0.113.1:5070>",
        "Contact: sip:sipp@203.0.113.1:5070",
        " IN IP4 203.0.113.1\r\ns=",
        "c=IN IP4 203.0.113.1\r\n",
    ] {
        assert!(invite.contains(want), "{want}: {invite}");
    }
    // A name like any other, though it looks like an address.
    let mut others = invite.lines().filter(|line| !line.starts_with("Call-ID:"));
    assert!(others.all(|line| !line.contains("192.168.")), "{invite}");
    Ok(())
}

/// A call's numbers behind the gateway, and its packets both ways.
pub fn pptp(stage: &Stage) -> Outcome {
    helper(stage, "tcp", 1723, "pptp")?;
    let directory = tempfile::tempdir()?;
    let script = directory.path().join("pptp.py").to_string_lossy().into_owned();
    fs::write(&script, include_str!("pptp.py"))?;
    let server = stage.start("server", &[PYTHON, &script, "server"])?;
    listens(stage, "-t", 1723)?;
    let said = stage.run("client", &[PYTHON, &script, "client", SERVER, "7"])?;
    let want = "answer 8 about 7 by 9\npacket of 198.51.100.10 for 7 from the server\n";
    assert_eq!(said, want);
    let heard = output(server)?;
    let want = "ready\ncall of 203.0.113.1 is its port: True\npacket of 203.0.113.1 for 9\n";
    assert_eq!(heard, want);
    Ok(())
}

fn output(program: Program) -> Tried<String> {
    Ok(String::from_utf8(program.finish()?.stdout)?)
}
