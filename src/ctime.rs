//! The local time as `ctime(3)` spells it, for the comment lines of saved rules.

/// Such as `Sat Apr 20 10:53:41 2019`.
pub fn now() -> String {
    jiff::Zoned::now().strftime("%a %b %e %H:%M:%S %Y").to_string()
}

/// The same of a time in nanoseconds since 1970.
pub fn at(unix_nanos: u64) -> String {
    local(unix_nanos).strftime("%a %b %e %H:%M:%S %Y").to_string()
}

/// Its parts as libnetfilter_conntrack's XML has them. Its day of the week counts from 1, Sunday.
pub fn when(unix_nanos: u64) -> String {
    let at = local(unix_nanos);
    format!(
        "<when><hour>{}</hour><min>{:02}</min><sec>{:02}</sec><wday>{}</wday><day>{}</day>\
         <month>{}</month><year>{}</year></when>",
        at.hour(),
        at.minute(),
        at.second(),
        at.weekday().to_sunday_one_offset(),
        at.day(),
        at.month(),
        at.year()
    )
}

fn local(unix_nanos: u64) -> jiff::Zoned {
    let at = jiff::Timestamp::from_nanosecond(i128::from(unix_nanos)).unwrap_or_default();
    at.to_zoned(jiff::tz::TimeZone::system())
}
