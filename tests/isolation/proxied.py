from sessions import collector
MECHANISMS = []
mechanism = collector(MECHANISMS, ("proxy",))
