//! The form of `-o json`: one object a line, with the names that the plain form has.

use super::entry::{Side, has_ports, is_icmp, protocol_name};
use super::text::{Shown, age};
use serde_json::{Map, Value, json};
use tidegate_nat::Status;
use tidegate_packet::protocol;

/// A connection, without a newline.
pub fn line(shown: Shown<'_>) -> String {
    let Shown { entry, what, show, now, label } = shown;
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    if let Some(what) = what {
        put("event", json!(what));
        put("time", json!(seconds(now)));
    }
    put("id", json!(entry.id));
    put("family", json!(if entry.is_v4() { "ipv4" } else { "ipv6" }));
    put("protocol", json!(protocol_name(entry.protocol)));
    put("protonum", json!(entry.protocol));
    for (key, value) in [
        ("timeout", entry.timeout.map(Value::from)),
        ("state", entry.state.clone().map(Value::from)),
        ("mark", entry.mark.map(Value::from)),
        ("zone", entry.zone.map(Value::from)),
        ("helper", entry.helper.clone().map(Value::from)),
        ("use", entry.uses.map(Value::from)),
        ("delta-time", age(entry, now).map(Value::from)),
        ("start", entry.start.map(|at| json!(seconds(at)))),
        ("stop", entry.stop.map(|at| json!(seconds(at)))),
    ] {
        if let Some(value) = value {
            put(key, value);
        }
    }
    put("original", side(&entry.original, entry.protocol));
    put("reply", side(&entry.reply, entry.protocol));
    let bits = [
        (Status::EXPECTED, "EXPECTED"),
        (Status::SEEN_REPLY, "SEEN_REPLY"),
        (Status::ASSURED, "ASSURED"),
        (Status::CONFIRMED, "CONFIRMED"),
        (Status::SNAT, "SRC_NAT"),
        (Status::DNAT, "DST_NAT"),
        (Status::FIXED_TIMEOUT, "FIXED_TIMEOUT"),
    ];
    let set: Vec<&str> = bits.iter().filter(|(b, _)| entry.has(*b)).map(|(_, n)| *n).collect();
    put("status", json!(set));
    if show.labels || !entry.labels.is_empty() {
        let names: Vec<String> = entry.labels.iter().map(|bit| label(*bit)).collect();
        put("labels", json!(names));
    }
    Value::Object(object).to_string()
}

/// Seconds since 1970, to the microsecond.
fn seconds(nanos: u64) -> f64 {
    (nanos / 1000) as f64 / 1e6
}

fn side(side: &Side, number: u8) -> Value {
    let Side { src, dst, sport, dport, counters, zone } = side;
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("src", json!(src));
    put("dst", json!(dst));
    if has_ports(number) {
        put("sport", json!(sport));
        put("dport", json!(dport));
    } else if is_icmp(number) {
        let [kind, code] = dport.to_be_bytes();
        put("type", json!(kind));
        put("code", json!(code));
        put("id", json!(sport));
    } else if number == protocol::GRE {
        put("srckey", json!(sport));
        put("dstkey", json!(dport));
    }
    if let Some(zone) = zone {
        put("zone", json!(zone));
    }
    if let Some((packets, bytes)) = counters {
        put("packets", json!(packets));
        put("bytes", json!(bytes));
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::super::entry::example;
    use super::super::events::What;
    use super::super::text::Show;
    use super::*;

    #[test]
    fn objects_have_the_plain_forms_names() {
        let entry = &example();
        let (what, show, now) = (Some(What::New), Show::default(), 1_500_000_000_250_000_000);
        let text = line(Shown { entry, what, show, now, label: &|_| String::new() });
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["event"], "new");
        assert_eq!(value["time"], 1_500_000_000.25);
        assert_eq!(value["protocol"], "tcp");
        assert_eq!(value["original"]["dport"], 80);
        assert_eq!(value["reply"]["dst"], "10.2.0.1");
        assert_eq!(value["status"], json!(["SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT"]));
        assert!(!text.contains('\n') && value.get("zone").is_none());
    }
}
