//! Edits of finished packets, and bytes in hexadecimal.

use tidegate_packet::{checksum, protocol};

/// Applies a `cut`, `pad`, `poke` or `slice` to a packet.
pub fn edited(mut packet: Vec<u8>, edit: &[String], repetition: u32) -> Result<Vec<u8>, String> {
    let argument = edit.get(1).ok_or(format!("{} what?", edit[0]))?;
    let argument = &argument.replace("$n", &repetition.to_string());
    let number = || argument.parse::<usize>().map_err(|_| format!("{argument:?} is no length"));
    match edit[0].as_str() {
        "cut" => packet.truncate(number()?),
        "pad" => packet.resize(packet.len() + number()?, 0),
        "poke" => overwrite(&mut packet, argument)?,
        _ => {
            let range = argument.split_once("..").ok_or("slice A..B")?;
            let (from, to) = (range.0.parse(), range.1.parse());
            let (Ok(from), Ok(to)) = (from, to) else { return Err("slice A..B".into()) };
            return slice(&packet, from, to);
        }
    }
    Ok(packet)
}

/// The fragment of `packet` that carries bytes `from..to` of its IP payload.
fn slice(packet: &[u8], from: usize, to: usize) -> Result<Vec<u8>, String> {
    let v4 = packet[0] >> 4 == 4;
    let header_len = if v4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    let payload = packet[header_len..].get(from..).ok_or("slice beyond the packet")?;
    let more = from + payload.len() > to;
    let payload = &payload[..payload.len().min(to - from)];
    let mut fragment = packet[..header_len].to_vec();
    if v4 {
        let len = (header_len + payload.len()) as u16;
        let flags = u16::from(more) << 13 | u16::from(packet[6] & 0xc0) << 8 | (from / 8) as u16;
        fragment[2..4].copy_from_slice(&len.to_be_bytes());
        fragment[6..8].copy_from_slice(&flags.to_be_bytes());
        fragment[10..12].fill(0);
        let sum = checksum::of(&fragment);
        fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        fragment[4..6].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
        fragment[6] = protocol::FRAGMENT;
        fragment.extend([packet[6], 0]);
        fragment.extend((from as u16 | u16::from(more)).to_be_bytes());
        fragment.extend([0, 0, 0xab, 0xcd]);
    }
    fragment.extend(payload);
    Ok(fragment)
}

/// `AT=HEX`
pub fn overwrite(bytes: &mut [u8], edit: &str) -> Result<(), String> {
    let (at, new) = edit.split_once('=').ok_or("AT=HEX")?;
    let at: usize = at.parse().map_err(|_| format!("{at:?} is no offset"))?;
    let new = hex(new)?;
    bytes.get_mut(at..at + new.len()).ok_or("beyond the packet")?.copy_from_slice(&new);
    Ok(())
}

/// Bytes written in hexadecimal.
pub fn hex(text: &str) -> Result<Vec<u8>, String> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(format!("{text:?}: odd number of digits"));
    }
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16))
        .collect::<Result<_, _>>()
        .map_err(|_| format!("{text:?} is not hexadecimal"))
}
