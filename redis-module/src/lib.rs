//! libflashsale.so
