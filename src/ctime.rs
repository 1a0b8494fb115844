//! The local time as `ctime(3)` spells it, for the comment lines of saved rules.

/// Such as `Sat Apr 20 10:53:41 2019`.
pub fn now() -> String {
    jiff::Zoned::now().strftime("%a %b %e %H:%M:%S %Y").to_string()
}
