//! Kernel records flow in, events of connections and their bytes flow out.
