//! The rules of a flash sale.
