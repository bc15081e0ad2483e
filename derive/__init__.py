"""stepsmith.derive"""
