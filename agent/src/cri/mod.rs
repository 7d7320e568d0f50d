//! The CRI face: it validates and converts, calls `ops`, and maps the failure's kind to a code. Bodies are short; what
//! they call is pure or in `ops`. Nothing here touches the kernel.

/// The model as the CRI shows it.
mod convert;
/// Which objects a filter lets through.
mod filter;
/// Span, metrics and log line of each RPC.
mod layer;
/// The methods by path.
mod methods;

pub use layer::Observe;
