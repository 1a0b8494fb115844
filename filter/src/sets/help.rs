//! `ipset help`.

use super::kind::{KINDS, Kind, Part};

/// What is printed of all commands and options.
pub(super) const USAGE: &str = "\
Usage: ipset [options] COMMAND

Commands:
create SETNAME TYPENAME [type-specific-options]
        Make a set
add SETNAME ENTRY
        Put an entry into a set
del SETNAME ENTRY
        Take an entry out of a set
test SETNAME ENTRY
        Look an entry up
destroy [SETNAME]
        Remove a set, or all
list [SETNAME]
        Show a set, or all
save [SETNAME]
        Show a set, or all, as commands that make it
restore
        Carry out commands from standard input
flush [SETNAME]
        Take everything out of a set, or of all
rename FROM-SETNAME TO-SETNAME
        Give a set another name
swap FROM-SETNAME TO-SETNAME
        Exchange what two sets hold
help [TYPENAME]
        Show this, or the options of a type
version
        Show the version
quit
        Leave the interactive mode

Options:
-o plain|save|xml
        How list and save show sets (list: plain, save: save)
-s      Sort entries; they always are
-q      Say nothing
-r      Show names of hosts; there are none to ask for here
-!      Let create and add pass over what is there, and del over what isn't
-n      List only names
-t      List no entries
-f      Read from this file instead of standard input (restore), or write to it instead of
        standard output (list, save)
";

/// The types there are.
pub(super) fn types() -> String {
    KINDS.iter().fold("\nSupported set types:\n".to_owned(), |text, kind| {
        text + &format!("    {}\t\t{}\n", kind.name, kind.revision)
    })
}

/// The options of a type.
pub(super) fn of(kind: &Kind) -> String {
    let name = kind.name;
    let mut options: Vec<&str> = Vec::new();
    if kind.chooses_family() {
        options.push("[family inet|inet6]|[-4|-6]");
    }
    if kind.is_hash() {
        options.extend(["[hashsize VALUE]", "[maxelem VALUE]"]);
    }
    if kind.is_bitmap() {
        options.push(if kind.has(Part::Ip) { "range IP/CIDR|FROM-TO" } else { "range FROM-TO" });
    }
    if kind.is_list() {
        options.push("[size VALUE]");
    }
    if kind.has(Part::Mark) {
        options.push("[markmask VALUE]");
    }
    if kind.mask.is_some() {
        options.push("[netmask CIDR]");
        options.extend(kind.is_hash().then_some("[bitmask MASK]"));
    }
    options.extend(["[timeout VALUE]", "[counters]", "[comment]", "[skbinfo]"]);
    if kind.is_hash() {
        options.extend(["[forceadd]", "[bucketsize VALUE]", "[initval VALUE]"]);
    }
    let entry: Vec<&str> = kind
        .parts
        .iter()
        .map(|part| match part {
            Part::Ip => "IP",
            Part::Net => "IP[/CIDR]",
            Part::Port if kind.is_bitmap() => "PORT",
            Part::Port => "[PROTO:]PORT",
            Part::Mark => "MARK",
            Part::Mac => "MAC",
            Part::Iface => "[physdev:]IFACE",
            Part::Set => "NAME [before|after NAME]",
        })
        .collect();
    let entry = entry.join(",");
    let mut extras = vec!["[timeout VALUE]", "[packets VALUE]", "[bytes VALUE]"];
    if kind.has_networks() {
        extras.insert(1, "[nomatch]");
    }
    if kind.has(Part::Iface) {
        extras.insert(2, "[wildcard]");
    }
    extras.extend([
        "[comment \"string\"]",
        "[skbmark VALUE]",
        "[skbprio VALUE]",
        "[skbqueue VALUE]",
    ]);
    let indented = |words: &[&str]| {
        words.iter().fold(String::new(), |text, word| text + "               " + word + "\n")
    };
    format!(
        "\n{name} type specific options:\n\ncreate SETNAME {name}\n{}add    SETNAME {entry}\n{}del    \
         SETNAME {entry}\ntest   SETNAME {entry}\n",
        indented(&options),
        indented(&extras)
    )
}
