"""The price of a real prediction, for texts that compare it with the emulator's."""

# One vendor's price of a video by prunaai/vace-14b; the vendors publish no price per speed mode.
REAL_PRICE = "about $0.40"
EMULATOR_COST = f"$0 (emulator); the real model {REAL_PRICE}"
