//! New rules for a running gateway.

use std::fs;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use tidegate::lab::traffic::service::Service;
use tidegate::lab::traffic::tcp;
use tidegate_packet::Family;

use super::harness::{
    DEADLINE, Gateway, Outcome, TWO, ask_tcp, at, knock, run, text, two_hosts, wait,
};

fn rules(refused: &str) -> String {
    format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         {refused}-A FORWARD -i lan0 -j ACCEPT\nCOMMIT\n\
         *nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
         -A POSTROUTING -s 192.168.0.0/24 -o wan0 -j MASQUERADE\nCOMMIT\n"
    )
}

const CLOSE_7: &str = "-A FORWARD -p tcp --dport 7 --syn -j REJECT --reject-with tcp-reset\n";

pub fn connections_outlive_a_reload() -> Outcome {
    let network = two_hosts().build()?;
    let client = network.host("client");
    let _service = Service::start(network.host("server"), "server", 7)?;
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\n");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", &rules(""))])?;
    let stop = AtomicBool::new(false);
    let stream = client.run(|| tcp::connect(None, at("203.0.113.2:7"), DEADLINE));
    let mut stream = stream.map_err(|e| e.to_string())?;
    thread::scope(|s| -> Outcome {
        // Echoes run all the time.
        let traffic = s.spawn(|| -> std::io::Result<u64> {
            let (mut rounds, mut block) = (0, [0; 4096]);
            while rounds <= 10 || !stop.load(Ordering::Relaxed) {
                block.fill(rounds as u8);
                stream.write_all(&block)?;
                let mut back = [0; 4096];
                stream.read_exact(&mut back)?;
                assert!(back == block, "round {rounds}");
                rounds += 1;
            }
            Ok(rounds)
        });
        let tried = (|| -> Outcome {
            assert_eq!(knock(client, "203.0.113.2:7")?, "reply from 203.0.113.2");
            fs::write(gateway.path("r"), rules(CLOSE_7))?;
            gateway.signal(Signal::SIGHUP)?;
            wait("the rule works", || knock(client, "203.0.113.2:7").is_ok_and(|k| k == "reset"))?;
            gateway.wait_for_log("rules reloaded")?;
            assert!(gateway.rules(Family::V4)?.contains("--dport 7"));
            // And open again, by the command.
            fs::write(gateway.path("r"), rules(""))?;
            let socket = gateway.control().to_string_lossy().into_owned();
            let said = run(client, &["reload", "--control", &socket])?;
            assert!(said.status.success(), "{}", text(&said.stderr));
            assert_eq!(knock(client, "203.0.113.2:7")?, "reply from 203.0.113.2");
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let rounds = traffic.join().map_err(|_| "the traffic panicked")??;
        tried?;
        assert!(rounds > 10, "{rounds}");
        Ok(())
    })?;
    gateway.stop()?;
    Ok(())
}

pub fn a_broken_file_changes_nothing() -> Outcome {
    let network = two_hosts().build()?;
    let client = network.host("client");
    let _service = Service::start(network.host("server"), "server", 7)?;
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\n");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", &rules(""))])?;
    let config = fs::read_to_string(gateway.path("gateway.toml"))?;
    let socket = gateway.control().to_string_lossy().into_owned();
    let rules_path = gateway.path("r");
    let broken = rules(CLOSE_7).replace("tcp-reset", "tcp-rset");
    for (file, content, place) in [
        ("r", broken, format!("{}:6:59", rules_path.display())),
        ("gateway.toml", format!("{config}\n[nonsense]\n"), "gateway.toml:20:2".to_owned()),
    ] {
        let good = fs::read_to_string(gateway.path(file))?;
        fs::write(gateway.path(file), content)?;
        let said = run(client, &["reload", "--control", &socket])?;
        let told = text(&said.stderr);
        assert_eq!(said.status.code(), Some(1), "{told}");
        assert!(told.contains(&place) && told.contains("────"), "{place} isn't named:\n{told}");
        gateway.signal(Signal::SIGHUP)?;
        gateway.wait_for_log("reload failed; the old rules stay in force")?;
        wait("the place in the log", || gateway.log().contains(&place))?;
        assert_eq!(ask_tcp(client, "203.0.113.2:7")?, "server sees 203.0.113.1");
        fs::write(gateway.path(file), good)?;
    }
    // What a reload doesn't take is said.
    fs::write(gateway.path("gateway.toml"), config.replace("lan0", "lan1"))?;
    let said = run(client, &["reload", "--control", &socket])?;
    let told = text(&said.stderr);
    assert!(said.status.success() && told.contains("at the next start"), "{told}");
    assert_eq!(ask_tcp(client, "203.0.113.2:7")?, "server sees 203.0.113.1");
    gateway.stop()?;
    Ok(())
}
