use super::*;
use tidegate_packet::Instant;

#[test]
fn loads() {
    let b = Bypass::open(Instant::ZERO);
    if let Err(e) = &b {
        eprintln!("{e}");
    }
    b.unwrap();
}
