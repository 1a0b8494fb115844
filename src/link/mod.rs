//! The kernel's view of links: reading and changing it, and taking interfaces over from it.

mod adopt;
pub mod netlink;
mod record;
mod records;

pub use adopt::{AdoptError, Adopted, adopt, recover};
pub use records::records;
