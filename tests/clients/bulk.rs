//! iperf3.

use super::stage::{Outcome, Stage, wait};

const STREAMS: usize = 32;

/// Many short streams at once, out and in: none is lost.
pub fn many_streams(stage: &Stage) -> Outcome {
    for (number, extra) in [&[][..], &["-R"]].into_iter().enumerate() {
        let port = (5201 + number).to_string();
        let server = stage.start("server", &["iperf3", "-s", "-1", "-p", &port])?;
        let listening = format!(":{:04X} ", 5201 + number);
        wait("iperf3's server", || {
            stage.scene.at("server", || {
                ["tcp", "tcp6"].iter().any(|table| {
                    let path = format!("/proc/thread-self/net/{table}");
                    std::fs::read_to_string(path).is_ok_and(|t| t.contains(&listening))
                })
            })
        })?;
        let streams = STREAMS.to_string();
        let mut command = vec!["iperf3", "-c", "198.51.100.10", "-J", "-p", &port];
        // Slow enough for all of them to get their turn.
        command.extend(["-P", &streams, "-t", "2", "-b", "2M", "-l", "8K"]);
        command.extend(extra);
        let said = stage.run("client", &command)?;
        let report: serde_json::Value = serde_json::from_str(&said)?;
        let ended = report["end"]["streams"].as_array().ok_or_else(|| said.clone())?;
        assert_eq!(ended.len(), STREAMS, "{said}");
        for stream in ended {
            let bytes = |side: &str| stream[side]["bytes"].as_u64().unwrap_or(0);
            assert!(bytes("sender") > 0 && bytes("receiver") > 0, "a lost stream: {stream}");
        }
        server.finish()?;
    }
    Ok(())
}
